"""The rung of XFS, bcachefs and APFS: every branch has all files, which share their blocks until written to."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from pytest_lakebranch.config import Rung
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.copy import CopyStorage
from pytest_lakebranch.providers.local.storage.tree import CopyFile, Tree, scan

MACOS = sys.platform == "darwin"


class ReflinkStorage(CopyStorage):
    """As a copy, in O(files). Where a running server is copied, a file may have to be copied byte by byte."""

    rung: Rung = "reflink"
    _copy_file: CopyFile = staticmethod(copying.share_or_copy)

    def copy(self, source: Path, data: Path, tree: Tree, *, live: bool = False) -> None:
        """See Storage."""
        if MACOS and not live:
            _clone_directory(source, data)
            _remove_what_is_never_copied(data)
        else:
            super().copy(source, data, tree, live=live)


def _clone_directory(source: Path, data: Path) -> None:
    """clonefile(2): a whole directory at once, times included."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.clonefile(os.fsencode(source), os.fsencode(data), 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(data))


def _remove_what_is_never_copied(data: Path) -> None:
    kept = scan(data).files
    for folder, _, names in os.walk(data):
        for name in names:
            path = Path(folder, name)
            if str(path.relative_to(data)) not in kept:
                path.unlink()
