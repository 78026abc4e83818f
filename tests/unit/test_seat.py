"""A process's place beside the runs' directories, and what is left of it when that process is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.branches.reaper import reap
from pytest_lakebranch.state import State, sockets_root

MAKE = """
import os, signal, sys
from pytest_lakebranch.state import make_seat, remove_owned, sockets_root

sockets_root()
left = int(sys.argv[1])

def fatal(event, arguments):
    global left
    if event in ("os.mkdir", "open", "os.rename", "os.remove", "os.rmdir"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(fatal)
seat = make_seat()
seat.joinpath("db").symlink_to(seat)
remove_owned(seat)
os._exit(0)
"""


@pytest.fixture
def short_directory() -> Iterator[str]:
    """One in which sockets can be."""
    with tempfile.TemporaryDirectory(prefix="lb") as made:
        yield made


def test_who_is_killed_meanwhile_leaves_nothing(
    short_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step of making or removing one: whoever comes next removes what is there, however young."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", short_directory)
    state = State(tmp_path / "home")
    state.ensure()
    ends, found = [], []
    while not ends or ends[-1] == -signal.SIGKILL:
        ends.append(subprocess.run([sys.executable, "-c", MAKE, str(len(ends))], check=False).returncode)
        found.append(len(list(sockets_root().iterdir())))
        reap(state)
        assert list(sockets_root().iterdir()) == []
    assert len(ends) > 6
    assert ends[-1] == 0
    assert found[0] == found[-1] == 0
    assert set(found) == {0, 1}
