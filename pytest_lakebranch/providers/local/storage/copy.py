"""The rung that works everywhere: a plain copy."""

from __future__ import annotations

from pathlib import Path

from pytest_lakebranch.config import Rung
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.base import Place, Sealed
from pytest_lakebranch.providers.local.storage.refresh import refresh_copy
from pytest_lakebranch.providers.local.storage.tree import CopyFile, Tree, copy_tree


class CopyStorage:
    """Every branch has all files; those that were not written to are used again by the next."""

    rung: Rung = "copy"
    recycles = True
    _copy_file: CopyFile = staticmethod(copying.copy_data)

    def make(self, data: Path) -> None:
        """See Storage."""
        data.mkdir(mode=0o700)

    def copy(self, source: Path, data: Path, tree: Tree, *, live: bool = False) -> None:
        """See Storage."""
        copy_tree(source, data, tree, self._copy_file, live=live)

    def branch(self, sealed: Sealed, directory: Path) -> Place:
        """See Storage."""
        directory.mkdir(mode=0o700)
        self.copy(sealed.data, directory / "data", sealed.tree)
        return Place(directory, directory / "data")

    def refresh(self, place: Place, sealed: Sealed) -> None:
        """See Storage."""
        refresh_copy(sealed.data, place.data, sealed.tree, self._copy_file)

    def remove(self, directory: Path) -> None:
        """See Storage."""
        remove_tree(directory)
