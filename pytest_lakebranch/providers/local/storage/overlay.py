"""The rung of every Linux with user namespaces: an overlay over the sealed files, mounted by the server's launch."""

from __future__ import annotations

from pathlib import Path

from pytest_lakebranch.config import Rung
from pytest_lakebranch.providers.local.launch import Overlay
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.base import Place, Sealed, relative
from pytest_lakebranch.providers.local.storage.copy import CopyStorage
from pytest_lakebranch.providers.local.storage.refresh import refresh_overlay
from pytest_lakebranch.providers.local.storage.tree import CopyFile

UNSAFE = frozenset(':,\\"')
OPTIONS = "lowerdir={lower},upperdir=upper,workdir=work,volatile,userxattr"
"""``volatile``: never sync. ``userxattr``: keep marks of removed directories where an ordinary user may set them."""


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
