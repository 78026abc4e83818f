"""PostgreSQL's programs where the uid that servers run as can reach them."""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import replace

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.providers.local.disk import translated
from pytest_lakebranch.servant import closed_to_servant
from pytest_lakebranch.state import State


def reachable(found: Binaries, state: State) -> Binaries:
    """``found``, or a copy of it in the state directory, made once, where servers could not get at the original.

    A virtual environment in root's home directory is such a place. Raises MachineError.
    """
    if closed_to_servant(found.directory) is None:
        return found
    name = f"postgres-{found.version}-{zlib.crc32(os.fsencode(found.directory)):08x}"
    target = state.home / "programs" / name
    if not target.is_dir():
        with translated(state.home, "copying PostgreSQL to where servers can reach it", MachineError):
            _copy(found, state, name)
    return replace(found, directory=target / found.directory.name)


def _copy(found: Binaries, state: State, name: str) -> None:
    import filelock

    folder = state.home / "programs"
    folder.mkdir(mode=0o700, exist_ok=True)
    with filelock.FileLock(folder / "lock", mode=0o600):
        fresh = folder / f"{name}.unfinished"
        remove_tree(fresh)
        if not (folder / name).is_dir():
            shutil.copytree(found.directory.parent, fresh, symlinks=True)
            fresh.rename(folder / name)
