"""``lakebranch serve``: the Lakebase API on this machine, for clients that know no difference."""

from __future__ import annotations

import contextlib
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.cli import arguments, output
from pytest_lakebranch.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from pytest_lakebranch.config import Settings
    from pytest_lakebranch.emulator.emulator import Emulator, Options
    from pytest_lakebranch.emulator.handover import Handover
    from pytest_lakebranch.emulator.identities import Identity

HIGHEST_PORT = 65535


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    what = "serve the Lakebase API on this machine, over real branches, for any client; Ctrl-C ends it"
    made = arguments.command(commands, "serve", what)
    made.add_argument(
        "program",
        nargs="*",
        default=[],
        metavar="COMMAND",
        help="after --: run it with the environment of a client, then end",
    )
    made.add_argument("--port", type=_port, default=0, metavar="PORT", help="port of the API (default: any free one)")
    made.add_argument("--base", action="append", default=[], metavar="STEP", help="what the default branch begins with")
    made.add_argument("--project", default="demo", metavar="ID", help="the project that there is at first")
    made.add_argument("--to", metavar="DIR", help="where to write databrickscfg and ca.pem (default: a private place)")
    made.add_argument(
        "--auth", choices=("pat", "m2m"), default="pat", help="how COMMAND signs in, as the creator of the project"
    )
    made.add_argument("--latency", action="append", default=[], metavar="NAME=SECONDS", help="how long something takes")
    made.add_argument("--fault", action="append", default=[], metavar="JSON", help="what goes wrong, and how often")
    made.add_argument("--limit", action="append", default=[], metavar="NAME=N", help="a limit other than the service's")
    made.add_argument("--seed", type=int, metavar="N", help="of chance, for the same latencies and faults again")
    made.add_argument("--endpoint-port", type=_port, default=5432, metavar="PORT", help="port of all endpoints")
    made.add_argument("--endpoint-address", metavar="ADDRESS", help="one address for all endpoints")
    made.set_defaults(act=run)


def _port(text: str) -> int:
    import argparse

    if not (text.isdecimal() and int(text) <= HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number")
    return int(text)


def run(parsed: Namespace) -> int:
    """Serve until interrupted, or until COMMAND ends, whose exit code it is then."""
    _check_extra()
    with arguments.ended_by_signals(), _emulator(parsed) as (emulator, private):
        from pytest_lakebranch.emulator.handover import environment, hand_over
        from pytest_lakebranch.emulator.listening import served

        with served(emulator, parsed.port) as url:
            directory = Path(parsed.to) if parsed.to else private
            _announce(parsed, hand_over(emulator, url, directory))
            if parsed.program:
                return _command(parsed.program, environment(emulator, url))
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    signal.pause()
    return 0


def _check_extra() -> None:
    try:
        import trustme  # noqa: F401
        import werkzeug  # noqa: F401
    except ImportError as error:
        raise MachineError(
            f"lakebranch serve needs packages that are not installed ({error.name}): "
            "pip install 'pytest-lakebranch[emulator]'"
        ) from error


@contextlib.contextmanager
def _emulator(parsed: Namespace) -> Iterator[tuple[Emulator, Path]]:
    """The emulator, and a directory that goes with it."""
    from pytest_lakebranch.cli import own_base, workplace
    from pytest_lakebranch.cli.project import project
    from pytest_lakebranch.emulator.emulator import Emulator
    from pytest_lakebranch.progress import Progress
    from pytest_lakebranch.steps.kinds import parse_all, refuse_left_out

    here = project(parsed)
    options = _options(parsed)
    settings = _settings(here.settings, options.identities[0])
    faults = [_fault(text) for text in parsed.fault]
    steps = parse_all(parsed.base, settings._replace(root=str(Path.cwd())))
    refuse_left_out(steps)
    progress = Progress("/dev/stderr" if sys.stderr.isatty() else None)
    with workplace.provider(settings, here.state.ensure()) as provider:
        _, base = own_base.build(provider, steps, settings, progress)
        with Emulator(provider, base, options) as emulator:
            emulator.set_up(parsed.project, faults)
            yield emulator, provider.run_directory / "served"


def _settings(settings: Settings, creator: Identity) -> Settings:
    """Those of the present directory, but that what steps make belongs to the project's creator, as in the service."""
    from pytest_lakebranch.emulator.sql import DEFAULT_DATABASE

    named = settings.sources
    return settings._replace(
        user=settings.user if "user" in named else creator.name,
        database=settings.database if "database" in named else DEFAULT_DATABASE,
    )


def _options(parsed: Namespace) -> Options:
    from dataclasses import fields

    from pytest_lakebranch.emulator.addresses import Addresses
    from pytest_lakebranch.emulator.emulator import Options, identities
    from pytest_lakebranch.emulator.limits import Limits

    known = {each.name for each in fields(Limits)}
    limits = _pairs("--limit", parsed.limit)
    for name, value in limits.items():
        if name not in known or not value.isdecimal():
            raise ConfigError(f"--limit {name}={value}: known are {', '.join(sorted(known))}, with a number.")
    machine = parsed.auth == "m2m"
    found = sorted(identities(), key=lambda each: (each.is_service_principal, each.manages) != (machine, True))
    return Options(
        identities=tuple(found),
        limits=Limits(**{name: int(value) for name, value in limits.items()}),
        latencies=_pairs("--latency", parsed.latency),
        addresses=Addresses(parsed.endpoint_port, parsed.endpoint_address),
        seed=parsed.seed,
    )


def _pairs(option: str, written: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in written]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise ConfigError(f"{option} {name}{equals}{value}: it is written NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _fault(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--fault {text}: it is no JSON ({error}). docs/emulator.md shows some.") from None


def _announce(parsed: Namespace, found: Handover) -> None:
    facts = {
        "url": found.url,
        "project": f"projects/{parsed.project}",
        "config": str(found.config),
        "profiles": list(found.profiles),
        "ca": str(found.ca),
    }
    lines = [
        f"serving projects/{parsed.project} on {found.url}",
        f"DATABRICKS_CONFIG_FILE={found.config} has the profiles {', '.join(found.profiles)}",
        f"certificates of endpoints are signed by {found.ca}",
    ]
    output.show(parsed, facts, lines)
    sys.stdout.flush()


def _command(words: Sequence[str], environment: Mapping[str, str]) -> int:
    from pytest_lakebranch.cli import child

    try:
        return child.exit_code(words, environment)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no command {words[0]!r}.") from error
