"""What the tests of the plugin share: a project to run pytest in, and a check that no run leaves anything behind."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Loaded here, so that pytester's runs in this process need not load them again and again.
import psycopg  # noqa: F401
import pytest

import pytest_lakebranch.preflight
import pytest_lakebranch.reporting.terminal
import pytest_lakebranch.run  # noqa: F401
from pytest_lakebranch.waiting import Deadline, poll
from tests import scan

NOT_OURS = ("randomly", "django", "asyncio", "anyio", "hypothesispytest", "faker")


def without_others(*wanted: str) -> tuple[str, ...]:
    """Options that leave out the installed plugins that are not wanted."""
    return tuple(word for name in NOT_OURS if name not in wanted for word in ("-p", f"no:{name}"))


PLAIN = without_others()
"""Options of a nested run that is not about other plugins."""
SOON = 20.0
"""Seconds after which something that should happen soon counts as not happening."""

RECORDER = """
import json, os, pathlib, pytest

RECORD = pathlib.Path(__file__).with_name("record.jsonl")

def record(**facts):
    with RECORD.open("a") as stream:
        stream.write(json.dumps(facts | {"worker": os.environ.get("PYTEST_XDIST_WORKER", "main")}) + "\\n")

@pytest.hookimpl(optionalhook=True)
def pytest_lakebranch_branch_ready(branch, item):
    record(hook="ready", branch=branch.name, parent=branch.parent, test=item and item.nodeid)

@pytest.hookimpl(optionalhook=True)
def pytest_lakebranch_branch_released(branch, end, item):
    record(hook="released", branch=branch.name, test=item and item.nodeid, ending=end.ending, reason=end.reason,
           connections=end.connections, held=end.held)
"""
"""A conftest.py that writes down what our hooks are called with."""


@dataclass(frozen=True)
class Project:
    """A project under test in a directory of its own."""

    pytester: pytest.Pytester
    home: Path

    @property
    def path(self) -> Path:
        """The project's directory."""
        return self.pytester.path

    def write(self, **files: str) -> Path:
        """Write files; ``__`` in a name is a slash, and ``.py`` is added where there is no dot after ``_dot_``."""
        for name, text in files.items():
            path = self.path / (name.replace("__", "/").replace("_dot_", ".") + ("" if "_dot_" in name else ".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self.path

    def ini(self, **settings: str | list[str]) -> None:
        """Write pytest.ini with settings; a list is written one entry a line."""
        lines = ["[pytest]"]
        for name, value in settings.items():
            lines += (
                [f"{name} ="] + [f"    {entry}" for entry in value]
                if isinstance(value, list)
                else [f"{name} = {value}"]
            )
        (self.path / "pytest.ini").write_text("\n".join(lines) + "\n")

    def run(self, *options: str) -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess(*PLAIN, *options)

    def spawn(self, *options: str, plain: bool = True) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*(PLAIN if plain else ()), *options, timeout=180)

    def start(self, *options: str, before: Sequence[str] = (), **kwargs: Any) -> subprocess.Popen[str]:
        """Start pytest in a process of its own, in the background, with its output in ``output.txt``; ``before`` goes
        in front of the command.
        """
        command = [*before, sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", *options]
        with (self.path / "output.txt").open("w") as output:
            return subprocess.Popen(
                command, cwd=self.path, stdout=output, stderr=subprocess.STDOUT, text=True, **kwargs
            )

    @property
    def output(self) -> str:
        """What a run that was started in the background has said so far."""
        return (self.path / "output.txt").read_text()

    def records(self, **wanted: object) -> list[dict[str, Any]]:
        """What RECORDER and the tests wrote down, in order."""
        path = self.path / "record.jsonl"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [facts for facts in found if all(facts.get(key) == value for key, value in wanted.items())]

    def wait_for(self, name: str) -> str:
        """Wait until a test has written the file ``name``; return its content."""
        path = self.path / name
        found = poll(lambda: path.read_text() or None if path.exists() else None, deadline=Deadline(60))
        assert found is not None, f"{name} was not written; the run said:\n{self.output}"
        return found


@pytest.fixture(scope="session")
def runtime_directory() -> Iterator[Path]:
    """A short directory for sockets, so that what other runs of this machine have open is not seen."""
    directory = Path(tempfile.mkdtemp(prefix="lbx", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def sockets(clean_environment: None, runtime_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nested runs put their sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_directory))
    return runtime_directory / "lakebranch"


def entries(directory: Path) -> list[str]:
    """The names in a directory; none where it does not exist."""
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def processes(home: Path) -> list[str]:
    """The hosts and servers that work for the state directory ``home``."""
    return [f"{process.pid} {process}"[:160] for process in scan.processes() if str(home) in str(process)]


def left_behind(home: Path, sockets: Path) -> list[str]:
    """What is left of runs: processes, run directories, socket directories."""
    return [*processes(home), *entries(home / "runs"), *entries(sockets)]


@pytest.fixture(autouse=True)
def nothing_left(shared_home: Path, sockets: Path) -> Iterator[None]:
    """After each test no process, no run directory and no socket directory is left."""
    yield
    gone = poll(lambda: True if not left_behind(shared_home, sockets) else None, deadline=Deadline(SOON))
    assert gone, left_behind(shared_home, sockets)


@pytest.fixture
def project(pytester: pytest.Pytester, shared_home: Path) -> Iterator[Project]:
    """An empty project. Connections that its tests left open on purpose are collected here, not in a later test."""
    yield Project(pytester, shared_home)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
