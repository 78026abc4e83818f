"""Deletes what dead runs left behind, and nothing else.

A run lives as long as its host holds the lock in its directory; the kernel lets go of it when the host ends.  Its
servers die with the host (parent-death signal); where the system has none, they are found by their working directory,
which lies inside the dead run's directory and carries its unique name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_lakebranch.processes import LINUX, Identity
from pytest_lakebranch.state import State, sockets_root
from pytest_lakebranch.waiting import Deadline, poll

YOUNG = 60.0
"""Seconds during which a run's directory without a lock may belong to a host that is about to start."""


def reap(state: State, *, but: Path | None = None) -> list[str]:
    """Delete the directories of dead runs, end what still runs in them, and clear abandoned socket directories.

    ``but`` is the directory of the caller's own run. Returns the names of the runs that were deleted.
    """
    dead = [path for path in _runs(state) if path != but and _reap_run(path)]
    for directory in sockets_root().iterdir():
        if _is_abandoned(directory):
            shutil.rmtree(directory, ignore_errors=True)  # another reaper may be at it: the next one sees the rest
    return [path.name for path in dead]


def dead_runs(state: State) -> list[str]:
    """The names of the runs that :func:`reap` would delete; nothing is changed."""
    return [path.name for path in _runs(state) if is_dead(path)]


def is_dead(path: Path) -> bool:
    """Whether no host serves the run in this directory, nor is about to."""
    with _locked_if_dead(path) as dead:
        return dead


def _runs(state: State) -> list[Path]:
    return sorted(path for path in state.runs.iterdir() if path.is_dir())


def _reap_run(path: Path) -> bool:
    with _locked_if_dead(path) as dead:
        if dead:
            end_processes_in(path)
            shutil.rmtree(path, ignore_errors=True)  # as above
        return dead


@contextlib.contextmanager
def _locked_if_dead(path: Path) -> Iterator[bool]:
    """Whether the run is dead; while the block runs, no host can claim it."""
    try:
        descriptor = os.open(path / "alive.lock", os.O_RDWR)
    except FileNotFoundError:
        yield _is_old(path)
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _is_old(path: Path) -> bool:
    """Whether a directory was made so long ago that nobody is about to put a lock in it; one that is gone is not."""
    try:
        return time.time() - path.stat().st_mtime > YOUNG
    except FileNotFoundError:
        return False


def end_processes_in(directory: Path) -> None:
    """Kill the PostgreSQL servers whose working directory is in ``directory``, and wait until they are gone."""
    for pid in _servers_in(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    poll(lambda: None if list(_servers_in(directory)) else True, deadline=Deadline(5))


def _servers_in(directory: Path) -> Iterator[int]:
    if not LINUX:
        yield from _servers_by_pid_file(directory)
        return
    for entry in Path("/proc").iterdir():
        try:
            inside = entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(directory)
            if inside and (entry / "comm").read_text().startswith("postgres"):
                yield int(entry.name)
        except OSError:  # it ended meanwhile, or belongs to another user
            continue


def _servers_by_pid_file(directory: Path) -> Iterator[int]:
    for path in directory.glob("*/*/**/postmaster.pid"):
        lines = path.read_text().splitlines()
        if lines and lines[0].isdigit() and not Identity.of(int(lines[0])).is_gone:
            yield int(lines[0])


def _is_abandoned(directory: Path) -> bool:
    try:
        return Identity(**json.loads((directory / "owner").read_text())).is_gone
    except (OSError, ValueError, TypeError):
        try:
            return time.time() - directory.stat().st_mtime > YOUNG
        except FileNotFoundError:
            return False
