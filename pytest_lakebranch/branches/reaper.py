"""Deletes what dead runs left behind and kept branches whose time is over, and nothing else.

A run lives as long as its host holds the lock in its directory; the kernel lets go of it when the host ends. Until a
host has taken it, the directory belongs to the process that it was made for. Its
servers die with the host (parent-death signal); where the system has none, they are found by their working directory,
which lies inside the dead run's directory and carries its unique name.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from pytest_lakebranch import kept
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.processes import LINUX, Identity, is_server_in, kill_if, maker_is_gone, servers_in
from pytest_lakebranch.segments import remove_segment
from pytest_lakebranch.state import ALIVE, CLOUD_RECORD, State, locked_if_free, owner_of, sockets_root
from pytest_lakebranch.waiting import Deadline, poll

NOTES_SECONDS = 30 * 86400.0
"""How long a note of what was worked out about files is kept that nobody has used; one in use is renewed every day."""
YOUNG = 60.0
"""Seconds during which a directory may be in use whose owner is not known, or cannot be seen from this container."""
TRIED = ".try-"
"""How the names of directories begin in which it is tried what a file system can do."""


class Reaped(NamedTuple):
    """The names of what was deleted: runs, and kept branches."""

    runs: list[str]
    kept: list[str]


def reap(state: State, *, but: Path | None = None, all_kept: bool = False) -> Reaped:
    """Delete the directories of dead runs, end what still runs in them, and clear abandoned socket directories; delete
    the kept branches whose time is over, or all; and notes about files that nobody has used for a month.

    ``but`` is the directory of the caller's own run.
    """
    dead = [path.name for path in _runs(state) if path != but and _reap_run(path)]
    for directory in (*sockets_root().iterdir(), *_unfinished(state)):
        if _is_abandoned(directory):
            _remove(directory)
    _forget_notes(state)
    over = [path.name for path in kept.over(state, all_of_them=all_kept) if _gone(path)]
    return Reaped(dead, over)


def _forget_notes(state: State) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(state.notes) as notes:
        for note in notes:
            if note.is_file(follow_symlinks=False) and time.time() - note.stat().st_mtime > NOTES_SECONDS:
                Path(note.path).unlink(missing_ok=True)


def _gone(directory: Path) -> bool:
    try:
        return kept.remove(directory)
    except OSError:  # as below
        return False


def _remove(directory: Path) -> None:
    """Delete; another reaper may be at the same, and the next one sees what is left of it."""
    with contextlib.suppress(OSError):
        remove_tree(directory)


def dead_runs(state: State) -> list[str]:
    """The names of the runs that :func:`reap` would delete; nothing is changed."""
    return [path.name for path in _runs(state) if is_dead(path)]


def is_dead(path: Path) -> bool:
    """Whether no host serves the run in this directory, nor is about to."""
    with _locked_if_dead(path) as dead:
        return dead


def _runs(state: State) -> list[Path]:
    return sorted(path for path in state.runs.iterdir() if path.is_dir() and not path.name.startswith("."))


def _unfinished(state: State) -> list[Path]:
    """Directories that were to get their names, or to be removed, by the process that their names tell."""
    return [*state.runs.glob(".*"), *state.home.glob(f"{TRIED}*")]


def left_in_cloud(state: State) -> list[Path]:
    """The directories of dead runs whose branches in a cloud are not known to be gone."""
    return [path for path in _runs(state) if (path / CLOUD_RECORD).exists() and is_dead(path)]


def _reap_run(path: Path) -> bool:
    with _locked_if_dead(path) as dead:
        if dead and (path / CLOUD_RECORD).exists():
            end_processes_in(path)
            return False
        if dead:
            end_processes_in(path)
            for file in path.glob("*/*/data/postmaster.pid"):
                remove_segment(file.parent)
            _remove(sockets_root() / f"r{path.name[:12]}")  # also if its owner, of another container, is not seen
            _remove(path)
        return dead


def _locked_if_dead(path: Path) -> AbstractContextManager[bool]:
    """Whether the run is dead; while the block runs, no host can claim it."""
    flags = os.O_RDWR if (path / ALIVE).exists() or not _was_never_claimed(path) else os.O_RDWR | os.O_CREAT
    return locked_if_free(path / ALIVE, flags)


def end_processes_in(directory: Path) -> None:
    """Kill the PostgreSQL servers whose working directory is in ``directory``, and wait until they are gone."""
    for pid in _servers_in(directory):
        with contextlib.suppress(ProcessLookupError):
            kill_if(pid, lambda pid: not LINUX or is_server_in(pid, directory))
    poll(lambda: None if list(_servers_in(directory)) else True, deadline=Deadline(5))


def _servers_in(directory: Path) -> Iterator[int]:
    return servers_in(directory) if LINUX else _servers_by_pid_file(directory)


def _servers_by_pid_file(directory: Path) -> Iterator[int]:
    for path in directory.glob("*/*/**/postmaster.pid"):
        lines = path.read_text().splitlines()
        if lines and lines[0].isdigit() and not Identity.of(int(lines[0])).is_gone:
            yield int(lines[0])


def _is_abandoned(directory: Path) -> bool:
    """Whether the owner of a directory of this machine is gone; of one that nobody has signed, a minute ago."""
    owner = owner_of(directory)
    return _is_unsigned(directory) if owner is None else owner.is_gone


def _was_never_claimed(directory: Path) -> bool:
    """Whether nobody is going to lock a run's directory. One that another machine or container made has a minute."""
    owner = owner_of(directory)
    return owner.is_gone if owner is not None and owner.is_visible else _is_old(directory)


def _is_unsigned(directory: Path) -> bool:
    token = re.search(r"[.-](\d+-[0-9a-f]{8}-[0-9a-f]{8})[._]", directory.name)
    return (token is not None and maker_is_gone(token[1])) or _is_old(directory)


def _is_old(directory: Path) -> bool:
    """Whether a directory has not changed for a minute; one that is gone is not old."""
    try:
        return time.time() - directory.stat().st_mtime > YOUNG
    except FileNotFoundError:
        return False
