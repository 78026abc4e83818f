"""What the tests of whole runs on the emulator are made of: an application, its project, and what may not be left."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from pytest_lakebranch.waiting import Deadline, poll
from tests import scan
from tests.plugin.conftest import Project

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from emulator_rigs import Emulated, emulated
from lakebase_rigs import calls, environ, ours

__all__ = [
    "LINKS",
    "MAIN",
    "Emulated",
    "assert_no_process_shows",
    "assert_no_secret_in",
    "assert_nothing_left",
    "calls",
    "command",
    "emulated",
    "environ",
    "hosts",
    "ours",
    "secrets_of",
]

MAIN = "from pytest_lakebranch.cli import main; raise SystemExit(main())"
LINKS = """
import contextlib, os, pathlib, pytest

@pytest.fixture(autouse=True)
def linked():
    yield
    home = pathlib.Path(os.environ["LAKEBRANCH_HOME"])
    for path in home.glob("runs/*/*"):
        with contextlib.suppress(FileExistsError):
            if path.is_file():
                os.link(path, home / "linked" / f"{path.parent.name}-{path.name}")
"""
"""A conftest.py that has the files of a run's directory outlive it: what is written to them later is seen, too."""


def assert_nothing_left(cloud: Emulated, *others: str) -> None:
    """What is being deleted is soon gone; ``others`` are not of the runs in question, and stay."""
    stay = sorted(others)
    assert poll(lambda: True if others_and_ours(cloud) == stay else None, deadline=Deadline(20)), others_and_ours(cloud)


def others_and_ours(cloud: Emulated) -> list[str]:
    """All branches but the default one."""
    with cloud.emulator.world.lock:
        found = [each for project in cloud.emulator.world.projects.values() for each in project.branches.values()]
    return sorted(each.id for each in found if not each.is_default)


def secrets_of(cloud: Emulated) -> list[str]:
    """All that the emulator knows: of identities, for the API, and for databases."""
    tokens = cloud.emulator.world.tokens
    known = [secret for each in tokens.identities for secret in (each.token, each.secret) if secret]
    return [*known, *tokens._database, *tokens._access]


def assert_no_secret_in(
    cloud: Emulated, project: Project, linked: Path, result: pytest.RunResult | None = None, planted: Sequence[str] = ()
) -> None:
    """Neither in what the run said, nor in the files that it left, nor in those of its directory, which is gone."""
    names = {path.name.partition("-")[2]: path for path in linked.iterdir()}
    assert {"host.log", "ledger.jsonl", "run.json"} <= set(names), names
    assert names["ledger.jsonl"].stat().st_size
    files = [path for place in (project.path, project.home) for path in place.rglob("*") if path.is_file()]
    said = [path.read_text(errors="replace") for path in files if "layers" not in path.parts]
    said += [] if result is None else [*result.outlines, *result.errlines]
    for secret in (*secrets_of(cloud), *planted):
        assert not any(secret in text for text in said)


def assert_no_process_shows(*secrets: str) -> None:
    """In its arguments or its title, which everybody on the machine can read; nor a server in its environment."""
    shown = [process.words for process in scan.processes()]
    servers = [each for each in psutil.Process().children(recursive=True) if each.name() == "postgres"]
    assert servers
    for server in servers:
        with contextlib.suppress(psutil.NoSuchProcess):  # it was one of a branch that has gone meanwhile
            shown += server.environ().values()
    assert not any(secret in words for secret in secrets for words in shown)


def hosts(home: Path) -> list[psutil.Process]:
    """The hosts that work for a state directory."""
    return [process for process in psutil.process_iter() if _is_host(process, home)]


def _is_host(process: psutil.Process, home: Path) -> bool:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
    return "pytest_lakebranch.host" in words and any(str(home) in word for word in words)


def command(project: Project, *words: str) -> pytest.RunResult:
    """``lakebranch`` in the project's directory."""
    return project.pytester.run(sys.executable, "-c", MAIN, *words)
