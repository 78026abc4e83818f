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

WHITEOUT_DEVICE = 0
LARGE = 4 << 20
"""Bytes above which a changed file of an overlay is dropped: copying it up again may never be needed."""
OPAQUE = "user.overlay.opaque"


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
            if relative in tree.files and _is_plain(entry):
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


def _is_plain(entry: os.DirEntry[str]) -> bool:
    found = entry.stat(follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600 and found.st_nlink == 1


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        remove_tree(Path(entry.path))
    else:
        Path(entry.path).unlink()


def refresh_overlay(source: Path, directory: Path, tree: Tree, copy: CopyFile) -> None:
    """Make the upper layer of an overlay, which is not mounted, show nothing but ``tree`` in ``source`` again.

    What was copied up and not written to stays: copying up keeps the time.
    """
    changed: list[str] = []
    _refresh_upper(directory / "upper", "", tree, changed)
    copy_files(source, directory / "upper", tree, changed, copy)
    # The mark that a volatile overlay was not synced; with it the next mount would be refused.
    # It lies in a directory that the kernel makes anew, and that an ordinary user must open before looking into it.
    remove_tree(directory / "work" / "work")


def _refresh_upper(upper: Path, folder: str, tree: Tree, changed: list[str]) -> None:
    for entry in list(os.scandir(upper / folder)):
        relative = folder + entry.name
        if entry.is_dir(follow_symlinks=False):
            if relative in tree.directories and not _is_opaque(entry.path):
                _refresh_upper(upper, f"{relative}/", tree, changed)
            else:
                remove_tree(Path(entry.path))
        elif relative not in tree.files or not _is_plain(entry):
            Path(entry.path).unlink()
        elif Entry.of(entry.stat(follow_symlinks=False)) != tree.files[relative]:
            _put_back(entry, relative, tree, changed)


def _put_back(entry: os.DirEntry[str], relative: str, tree: Tree, changed: list[str]) -> None:
    if tree.files[relative].size > LARGE:
        Path(entry.path).unlink()
    else:
        changed.append(relative)


def _is_opaque(directory: str) -> bool:
    """Whether a directory hides the one below it: it was removed and made again."""
    return OPAQUE in os.listxattr(directory)
