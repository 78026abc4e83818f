"""``lakebranch open``: look into a branch or a base with psql, on a copy of it."""

from __future__ import annotations

import contextlib
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_lakebranch.cli import arguments, output
from pytest_lakebranch.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_lakebranch.cli.target import Layer, Left
    from pytest_lakebranch.config import Settings
    from pytest_lakebranch.model import Endpoint
    from pytest_lakebranch.state import State

DATABASES = """select datname from pg_database where datallowconn and not datistemplate
order by datname <> %s, datname = 'postgres', oid"""
"""The one that is wanted first, then other databases of tests, then PostgreSQL's own."""

NO_LIMIT = "1000000T"
"""Of the cache: who looks at one branch takes nothing from others."""


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    what = "open a copy-on-write copy of a branch or base with psql; the original stays as it is"
    made = arguments.command(commands, "open", what)
    made.add_argument(
        "target",
        metavar="NODEID|BRANCH|KEY|base",
        help="a test, a branch as `lakebranch ls` names it (b3, or RUN/b3), a layer, or this project's base",
    )
    after = "after --: arguments for psql, such as -c 'SELECT 1'"
    made.add_argument("program", nargs="*", default=[], metavar="ARGUMENT", help=after)
    made.add_argument("--print", action="store_true", help="print the URL instead, and wait until interrupted")
    arguments.provider(made)
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Open, wait, clean up; the exit code is that of psql."""
    from pytest_lakebranch.cli.project import project, state
    from pytest_lakebranch.cli.target import find

    if parsed.program and (parsed.print or parsed.json):
        raise ConfigError(f"{' '.join(parsed.program)}: arguments for psql, which --print and --json do not run.")
    here, home = project(parsed), state(parsed)
    if parsed.provider != "local":
        return _in_cloud(parsed, here.settings)
    target = find(parsed.target, project=here, state=home)
    check_version(target.sealed, target.settings)
    with arguments.ended_by_signals(), opened(target, target.settings, home) as endpoint:
        if parsed.print or parsed.json:
            return _print(parsed, endpoint, target.name)
        return _psql(endpoint, parsed.program, target.settings)


def _in_cloud(parsed: Namespace, settings: Settings) -> int:
    from pytest_lakebranch.cli import cloud

    with arguments.ended_by_signals(), cloud.opened(parsed) as (endpoint, path):
        if parsed.print or parsed.json:
            return _print(parsed, endpoint, path)
        return _psql(endpoint, parsed.program, settings)


@contextlib.contextmanager
def opened(target: Layer | Left, settings: Settings, state: State) -> Iterator[Endpoint]:
    """A server on a copy of the target, until the block ends."""
    from pytest_lakebranch.cli import workplace
    from pytest_lakebranch.providers.local.compute import LocalCompute

    with workplace.provider(settings._replace(storage="auto", cache_size=NO_LIMIT), state) as provider:
        compute = provider.start("open", target.fork_point(provider))
        assert isinstance(compute, LocalCompute)  # noqa: S101  (a local provider's)
        found = [row[0] for row in compute.server.query(DATABASES, settings.database)]
        yield compute.server.endpoint(found[0])


def check_version(sealed: Path, settings: Settings) -> None:
    """Raise MachineError when the PostgreSQL that would be started cannot read the files."""
    from pytest_lakebranch.errors import MachineError
    from pytest_lakebranch.postgres.binaries import find

    mark, programs = sealed / "PG_VERSION", find(settings.postgres)
    made_by = mark.read_text().strip() if mark.exists() else str(programs.major)
    if made_by != str(programs.major):
        raise MachineError(
            f"it was made by PostgreSQL {made_by}, and lakebranch_postgres={settings.postgres} leads to "
            f"{programs.version} ({programs.directory}). Set LAKEBRANCH_POSTGRES to the programs of {made_by}."
        )


def _psql(endpoint: Endpoint, words: Sequence[str], settings: Settings) -> int:
    from pytest_lakebranch.cli import child
    from pytest_lakebranch.postgres.binaries import find
    from pytest_lakebranch.postgres.connect import conninfo
    from pytest_lakebranch.processes import environment_without_pg

    program = find(settings.postgres).program("psql")
    return child.exit_code([program, conninfo(endpoint), *words], environment_without_pg())


def _print(parsed: Namespace, endpoint: Endpoint, name: str) -> int:
    from pytest_lakebranch.postgres.connect import conninfo, url

    facts = {"of": name, "url": url(endpoint), "conninfo": conninfo(endpoint), "database": endpoint.dbname}
    output.show(parsed, facts, [facts["url"]])
    sys.stdout.flush()
    sys.stderr.write(f"a copy of {name}: what you do in it does not reach the original; Ctrl-C ends it\n")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            signal.pause()
    return 0
