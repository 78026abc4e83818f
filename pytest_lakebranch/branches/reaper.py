"""Deletes what dead runs left behind and kept branches whose time is over, and nothing else.

A run lives as long as its host holds the lock in its directory; the kernel lets go of it when the host ends. Until a
host has taken it, the directory belongs to the process that it was made for. Its
servers die with the host (parent-death signal); where the system has none, they are found by their working directory,
which lies inside the dead run's directory and carries its unique name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from pytest_lakebranch import cloud_record, kept
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.processes import LINUX, Identity, is_server_in, kill_if, maker_is_gone, servers_in
from pytest_lakebranch.segments import remove_segment
from pytest_lakebranch.state import ALIVE, State, locked_if_free, owner_of, remove_owned, sockets_root
from pytest_lakebranch.waiting import Deadline, poll

NOTES_SECONDS = 30 * 86400.0
"""How long a note of what was worked out about files is kept that nobody has used; one in use is renewed every day."""
YOUNG = 60.0
"""Seconds during which a directory may be in use whose owner is not known, or cannot be seen from this container."""
IN_CLOUD = "its branches in {where} are not deleted yet: `lakebranch reap --provider lakebase` in its project"
TRIED = ".try-"
"""How the names of directories begin in which it is tried what a file system can do."""


class Reaped(NamedTuple):
    """The names of what was deleted: runs, and kept branches; and why other things are still there, by name."""

    runs: list[str]
    kept: list[str]
    left: dict[str, str]


def reap(state: State, *, but: Path | None = None, all_kept: bool = False) -> Reaped:
    """Delete the directories of dead runs, end what still runs in them, and clear abandoned socket directories; delete
    the kept branches whose time is over, or all; and notes about files that nobody has used for a month.

    ``but`` is the directory of the caller's own run.
    """
    gone = Reaped([], [], {})
    for path in _runs(state):
        if path != but:
            _reap_run(path, gone)
    for directory in (*sockets_root().iterdir(), *_unfinished(state)):
        if _is_abandoned(directory) and (failure := _remove(directory, remove_owned)):
            gone.left[str(directory)] = failure
    _forget_notes(state)
    for path in kept.over(state, all_of_them=all_kept):
        _reap_kept(path, gone)
    return gone


def due(state: State, *, all_kept: bool = False) -> Reaped:
    """What :func:`reap` would delete, and leave; nothing is changed."""
    dead = [path for path in _runs(state) if is_dead(path)]
    over = [path.name for path in kept.over(state, all_of_them=all_kept)]
    cloud = left_in_cloud(state)
    return Reaped([path.name for path in dead if path.name not in cloud], over, cloud)


def _forget_notes(state: State) -> None:
    with contextlib.suppress(FileNotFoundError), os.scandir(state.notes) as notes:
        for note in notes:
            if note.is_file(follow_symlinks=False) and time.time() - note.stat().st_mtime > NOTES_SECONDS:
                Path(note.path).unlink(missing_ok=True)


def _reap_kept(directory: Path, gone: Reaped) -> None:
    try:
        if kept.remove(directory):
            gone.kept.append(directory.name)
    except OSError as error:
        if directory.exists():
            gone.left[directory.name] = _told(error, directory)


def _remove(directory: Path, remove: Callable[[Path], None] = remove_tree) -> str:
    """Delete; why it is still there, or nothing. Another reaper may be at the same."""
    try:
        remove(directory)
    except OSError as error:
        return _told(error, directory) if directory.exists() else ""
    return ""


def _told(error: OSError, directory: Path) -> str:
    """Not every version of Python names the whole path."""
    return f"{Path(error.filename or directory).name} in {directory} could not be deleted: {error.strerror}"


def is_dead(path: Path) -> bool:
    """Whether no host serves the run in this directory, nor is about to; nothing is changed."""
    if not (path / ALIVE).exists():
        return _was_never_claimed(path)
    with locked_if_free(path / ALIVE) as dead:
        return dead


def _runs(state: State) -> list[Path]:
    return sorted(path for path in state.runs.iterdir() if path.is_dir() and not path.name.startswith("."))


def _unfinished(state: State) -> list[Path]:
    """Directories that were to get their names, or to be removed, by the process that their names tell."""
    return [*state.runs.glob(".*"), *state.home.glob(f"{TRIED}*")]


def left_in_cloud(state: State) -> dict[str, str]:
    """The dead runs whose branches in a cloud are not known to be gone, and where these are."""
    return {path.name: _in_cloud(path) for path in _runs(state) if cloud_record.is_needed(path) and is_dead(path)}


def _in_cloud(directory: Path) -> str:
    return IN_CLOUD.format(where=cloud_record.read(directory) or "a cloud")


def _reap_run(path: Path, gone: Reaped) -> None:
    with _locked_if_dead(path) as dead:
        if not dead:
            return
        end_processes_in(path)
        if cloud_record.is_needed(path):
            gone.left[path.name] = _in_cloud(path)
            return
        for file in path.glob("*/*/data/postmaster.pid"):
            if failure := remove_segment(file.parent):
                gone.left[f"the shared memory of {file.parent.parent}"] = failure
        failures = [_remove(directory) for directory in (*_sockets_of(path), *_folders(path))]
        failure = next(filter(None, failures), "") or _remove(path)  # with the lock last: what stays is seen as dead
        if failure:
            gone.left[path.name] = failure
        else:
            gone.runs.append(path.name)


def _sockets_of(path: Path) -> set[Path]:
    """Where the sockets of a run are, also if its owner, of another container, is not seen, or it had another place for
    temporary files. The name alone is unique.
    """
    usual = sockets_root() / f"r{path.name[:12]}"
    try:
        noted = Path(json.loads((path / "run.json").read_text())["sockets"])
    except (OSError, ValueError, TypeError, KeyError):
        return {usual}
    return {usual, noted} if noted.name == usual.name else {usual}


def _folders(path: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    return []


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
