"""PostgreSQL's programs where the uid that servers run as can reach them."""

from __future__ import annotations

import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.providers.local.disk import translated
from pytest_lakebranch.servant import closed_to_servant
from pytest_lakebranch.state import State

PACKAGE = "package"


def reachable(found: Binaries, state: State) -> Binaries:
    """``found``, or a copy of it in the state directory, made once, where servers could not get at the original.

    A virtual environment in root's home directory is such a place. Raises MachineError.
    """
    if closed_to_servant(found.directory) is None:
        return found
    name = f"postgres-{found.version}-{zlib.crc32(os.fsencode(found.directory)):08x}"
    installation = found.directory.parent
    target = state.home / "programs" / name / PACKAGE / installation.name
    if not target.is_dir():
        with translated(state.home, "copying PostgreSQL to where servers can reach it", MachineError):
            _copy(installation, state.home / "programs", name)
    return replace(found, directory=target / found.directory.name)


def _copy(installation: Path, folder: Path, name: str) -> None:
    """Programs of a wheel look for libraries beside its package, by a path relative to their own."""
    import filelock

    folder.mkdir(mode=0o700, exist_ok=True)
    libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
    with filelock.FileLock(folder / "lock", mode=0o600):
        fresh = folder / f"{name}.unfinished"
        remove_tree(fresh)
        if not (folder / name / PACKAGE / installation.name).is_dir():
            shutil.copytree(installation, fresh / PACKAGE / installation.name, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
            remove_tree(folder / name)
            fresh.rename(folder / name)
