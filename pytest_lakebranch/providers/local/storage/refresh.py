"""Putting the files of a stopped branch back: only those that were written to are copied.

Why not delete and clone again: ext4 passes over inodes freed in the last minutes when it makes new ones, and
making a thousand files after deleting a thousand takes a second (recently_deleted(), fs/ext4/ialloc.c).

A file that has its original's size and time was not written to: copying gave it that time, which lies before the
branch's life, and every write sets the time anew. What was replaced by another kind of file, or got another name,
is removed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local.storage.tree import CopyFile, Entry, Tree, copy_files


def refresh_copy(source: Path, data: Path, tree: Tree, copy: CopyFile) -> None:
    """Make ``data``, once a full copy of ``tree`` in ``source``, one again."""
    there = _keep_only(tree, data)
    changed = [name for name, entry in tree.files.items() if there.get(name) != entry]
    copy_files(source, data, tree, changed, copy)


def _keep_only(tree: Tree, data: Path) -> dict[str, Entry]:
    """Remove from ``data`` what has no name in ``tree`` or is no plain file; the identities of the rest."""
    known = set(tree.directories)
    there: dict[str, Entry] = {}
    for folder in ("", *(f"{name}/" for name in tree.directories)):
        for entry in _entries(data / folder):
            relative = folder + entry.name
            if relative in tree.files and is_plain(entry):
                there[relative] = Entry.of(entry.stat(follow_symlinks=False))
            elif not (relative in known and entry.is_dir(follow_symlinks=False)):
                _remove(entry)
    return there


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    """What lies in a directory of the original; made again if it is gone."""
    try:
        return list(os.scandir(directory))
    except FileNotFoundError:
        directory.mkdir(mode=0o700)
        return []


def is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file as we make them, with no other name."""
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600 and found.st_nlink == 1


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        remove_tree(Path(entry.path))
    else:
        Path(entry.path).unlink()
