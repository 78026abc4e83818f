"""What the tests of the command line and of reports share: the command in this process, and runs that stand still."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

# Loaded here: what a test loads is forgotten after it, and a class loaded twice is two classes.
import pytest_lakebranch.cli.workplace
import pytest_lakebranch.providers.local.reopen  # noqa: F401
from pytest_lakebranch.cli import main
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import SOON, Project

SCHEMA = "create table item (id serial primary key, name text); insert into item (name) values ('one'), ('two');"
STANDING = """
import pathlib
from pytest_lakebranch.waiting import Deadline, poll

HERE = pathlib.Path(__file__).parent

def test_standing(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("set synchronous_commit = on")  # else the last half second is lost when the server is killed
        conn.execute("insert into item (name) values ('three')")
    (HERE / "ready").write_text(lakebranch.name)
    poll(lambda: True if (HERE / "go").exists() else None, deadline=Deadline(60))
    with lakebranch.connect() as conn:
        assert conn.execute("select count(*) from item").fetchone() == (3,)
"""
"""A test that writes to its branch, waits, and finds its branch as it left it."""


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What it said as one JSON object."""
        stored: dict[str, Any] = json.loads(self.out)
        return stored


class Command:
    """The command ``lakebranch``, run in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *words: str) -> Said:
        """Run it; argparse's way out is an exit code like any other."""
        self._capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Said(code, *self._capfd.readouterr())


@dataclass(frozen=True)
class Standing:
    """A run whose test stands still on branch ``branch``."""

    project: Project
    process: subprocess.Popen[str]
    branch: str

    def host(self) -> psutil.Process:
        """The run's host."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "pytest_lakebranch.host" in words and words[-1].startswith(str(self.project.home)):
                    return process
        raise AssertionError(f"there is no host; the run said:\n{self.project.output}")

    def end(self) -> str:
        """Let the test go on, and return what the run said."""
        (self.project.path / "go").write_text("")
        self.process.wait(timeout=60)
        return self.project.output

    def kill(self) -> None:
        """End controller and host at once, with -9, and wait until their servers are gone too."""
        host = self.host()
        servers = host.children(recursive=True)
        for pid in (host.pid, self.process.pid):  # a host that sees its controller go ends the leases
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        gone, alive = psutil.wait_procs([host, *servers], timeout=SOON)
        assert not alive, (gone, alive)


@contextmanager
def standing(project: Project, *options: str, **ini: str) -> Iterator[Standing]:
    """A run that stands still until the block ends."""
    project.write(schema_dot_sql=SCHEMA, test_standing=STANDING)
    project.ini(lakebranch_base="sql:schema.sql", **ini)
    process = project.start(*options)
    try:
        yield Standing(project, process, project.wait_for("ready"))
    finally:
        (project.path / "go").write_text("")
        process.wait(timeout=60)


def wait_until(probe: Callable[[], object]) -> None:
    """Wait until ``probe`` says yes."""
    assert poll(lambda: True if probe() else None, deadline=Deadline(SOON)), probe


def layer_directories(home: Path) -> list[str]:
    """The keys of the layers in a state directory."""
    return sorted(path.name for path in (home / "layers").iterdir() if path.is_dir())
