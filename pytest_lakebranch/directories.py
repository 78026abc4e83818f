"""Directories with everything in them: removed, and measured."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path


def remove_tree(directory: Path) -> None:
    """Remove ``directory`` and all in it, also where rights were taken away; nothing to remove is fine."""
    for _ in range(3):  # again if somebody removes or adds something at the same time
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            if not directory.is_symlink() and not directory.exists():
                return
        except PermissionError:
            _open(directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
    if directory.exists():
        shutil.rmtree(directory)


def _open(directory: Path) -> None:
    """Give us back the right to look into directories: overlayfs keeps some of mode 0000."""
    with contextlib.suppress(FileNotFoundError):  # somebody else is removing it
        directory.chmod(0o700)
        for folder, names, _ in os.walk(directory):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    path.chmod(0o700)


def occupied(directory: Path) -> int:
    """Bytes that the files in ``directory`` occupy, blocks that are shared with a base included."""
    total = 0
    try:
        found = list(os.scandir(directory))
    except OSError:  # gone meanwhile, or a directory that overlayfs keeps closed
        return 0
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            total += occupied(Path(entry.path))
        else:
            total += _blocks(entry)
    return total


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        return 0
