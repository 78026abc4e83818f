"""A process's place beside the runs' directories, and what is left of it when that process is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lakebranch.branches.reaper import reap
from pytest_lakebranch.state import State, sockets_root

MAKE = """
import os, signal, sys
from pytest_lakebranch.state import make_seat, sockets_root

sockets_root()
left = int(sys.argv[1])

def fatal(event, arguments):
    global left
    if event in ("os.mkdir", "open", "os.rename"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(fatal)
make_seat()
os._exit(0)
"""


def test_who_is_killed_while_making_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each step of it and after the last: whoever comes next removes what is there, however young."""
    runtime = tmp_path / "r"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    state = State(tmp_path / "home")
    state.ensure()
    ends, found = [], []
    while not ends or ends[-1] == -signal.SIGKILL:
        ends.append(subprocess.run([sys.executable, "-c", MAKE, str(len(ends))], check=False).returncode)
        found.append(len(list(sockets_root().iterdir())))
        reap(state)
        assert list(sockets_root().iterdir()) == []
    assert len(ends) > 3
    assert ends[-1] == 0
    assert set(found) == {0, 1}
