"""Branches that were left for a human: where they lie, what is known of them, and until when.

    HOME/kept/RUN-BRANCH/           the branch's directory, as its run left it, moved here at once
    HOME/kept/RUN-BRANCH/kept.json  what is known of it

A branch of which only the changes are stored stands on a layer, and pins it: who removes layers asks :func:`pinned`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.state import State

NOTE = "kept.json"
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept branch. ``at`` and ``until`` are seconds since 1970; ``stands_on`` is the data directory of a layer, or
    empty; ``settings`` are those of its run. ``bytes`` are those it occupies by itself.
    """

    run: str
    branch: str
    test: str
    worker: str
    reason: str
    root: str
    at: float
    until: float
    settings: dict[str, Any]
    stands_on: str = ""
    bytes: int = 0

    @property
    def is_over(self) -> bool:
        """Whether its time has passed."""
        return time.time() >= self.until


def place(state: State, run: str, branch: str) -> Path:
    """Where a branch is kept."""
    return state.kept / f"{run[:12]}-{branch}"


def write(directory: Path, kept: Kept) -> None:
    """Leave the note in the branch's directory."""
    path = directory / NOTE
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(kept)))


def read(directory: Path) -> Kept | None:
    """The note of a kept branch; None when it is gone or damaged."""
    try:
        return Kept(**json.loads((directory / NOTE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def directories(state: State) -> list[Path]:
    """Where branches are kept, by name."""
    return sorted(path for path in state.kept.iterdir() if path.is_dir()) if state.kept.is_dir() else []


def pinned(state: State) -> set[Path]:
    """The data directories of layers that kept branches stand on."""
    found = (read(directory) for directory in directories(state))
    # By key and generation: a container that kept one may have another path to the same state directory.
    return {
        state.layers.joinpath(*Path(kept.stands_on).parts[-2:]) for kept in found if kept is not None and kept.stands_on
    }


def open_command(test: str, branch: str, settings: dict[str, Any]) -> str:
    """The command that opens the branch kept for ``test``, with these settings of its run."""
    if settings["provider"] != "local":
        source = f"LAKEBRANCH_SOURCE={settings['source']}"
        return shlex.join([source, "lakebranch", "open", branch, "--provider", settings["provider"]])
    words = ["lakebranch", "open", test]
    if settings["sources"].get("home", "").startswith("--"):  # elsewhere it is found where the run found it
        words += ["--home", settings["home"]]
    return shlex.join(words)


@contextlib.contextmanager
def in_use(directory: Path) -> Iterator[bool]:
    """Whether the branch is there; until the block ends it is not removed."""
    with _handle(directory) as handle:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield handle is not None and directory.exists()


def over(state: State, *, all_of_them: bool = False) -> list[Path]:
    """The kept branches whose time has passed. One whose note is damaged has a day."""
    return [path for path in directories(state) if all_of_them or _is_over(path)]


def _is_over(directory: Path) -> bool:
    kept = read(directory)
    if kept is not None:
        return kept.is_over
    try:
        return time.time() - directory.stat().st_mtime > DAY
    except FileNotFoundError:
        return False


def remove(directory: Path) -> bool:
    """Delete a kept branch; False, and nothing is done, while somebody opens it."""
    with _handle(directory) as handle:
        if handle is None:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        remove_tree(directory)
        return True


@contextlib.contextmanager
def _handle(directory: Path) -> Iterator[int | None]:
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
