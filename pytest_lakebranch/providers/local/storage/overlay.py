"""The rung of every Linux with user namespaces: an overlay over the sealed files, mounted by the server's launch."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_lakebranch.config import Rung
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local.launch import Overlay
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.base import Place, Sealed, relative
from pytest_lakebranch.providers.local.storage.copy import CopyStorage
from pytest_lakebranch.providers.local.storage.refresh import is_plain
from pytest_lakebranch.providers.local.storage.tree import CopyFile, Entry, Tree, copy_files

UNSAFE = frozenset(':,\\"')
OPTIONS = "lowerdir={lower},upperdir=upper,workdir=work,volatile,userxattr"
"""``volatile``: never sync. ``userxattr``: keep marks of removed directories where an ordinary user may set them."""
OPAQUE = "user.overlay.opaque"
"""The mark of a directory that hides what the sealed files have in its place (overlayfs.rst, "userxattr")."""
LARGE = 4 << 20
"""Bytes above which a changed file of an overlay is dropped: copying it up again may never be needed."""


class OverlayStorage(CopyStorage):
    """Bases and frozen presents are plain directories; only branches are overlays, and never one over another."""

    rung: Rung = "overlay"
    _copy_file: CopyFile = staticmethod(copying.share_or_copy)

    def branch(self, sealed: Sealed, directory: Path) -> Place:
        """See Storage."""
        for path in (directory, directory / "upper", directory / "work", directory / "merged"):
            path.mkdir(mode=0o700)
        return Place(directory, directory / "merged", Overlay(directory, options(sealed.data, directory)))

    def refresh(self, place: Place, sealed: Sealed) -> None:
        """See Storage."""
        refresh_overlay(sealed.data, place.directory, sealed.tree, self._copy_file)


def options(lower: Path, directory: Path) -> str:
    """The mount options for an overlay in ``directory``; raises OSError where a path cannot be written in them."""
    path = relative(lower, directory)
    if UNSAFE & set(path):
        raise OSError(0, f"overlay cannot mount a path with one of {' '.join(sorted(UNSAFE))}", path)
    return OPTIONS.format(lower=path)


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
            if relative in tree.directories and not is_opaque(entry.path):
                _refresh_upper(upper, f"{relative}/", tree, changed)
            else:
                remove_tree(Path(entry.path))
        elif relative not in tree.files or not is_plain(entry):
            Path(entry.path).unlink()
        elif Entry.of(entry.stat(follow_symlinks=False)) != tree.files[relative]:
            _put_back(entry, relative, tree, changed)


def _put_back(entry: os.DirEntry[str], relative: str, tree: Tree, changed: list[str]) -> None:
    if tree.files[relative].size > LARGE:
        Path(entry.path).unlink()
    else:
        changed.append(relative)


def is_opaque(directory: str) -> bool:
    """Whether a directory of an upper layer hides the one below it: it was removed and made again."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except (OSError, AttributeError):
        return False
