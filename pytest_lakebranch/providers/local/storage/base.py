"""What a storage rung does, and the place it makes for a branch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_lakebranch.config import Rung
from pytest_lakebranch.providers.local.launch import Overlay
from pytest_lakebranch.providers.local.storage.tree import Tree

if TYPE_CHECKING:
    from pytest_lakebranch.providers.local.rewind.knowledge import Knowledge


@dataclass(slots=True)
class Sealed:
    """An immutable data directory of a cleanly stopped server, what lies in it, and what is learned of it later:
    where the log of each server stands that is started on it, its kept caches of the catalog, and what it takes to
    rewind branches of it.
    """

    key: str
    data: Path
    tree: Tree
    position: int | None = None
    caches: dict[str, bytes] | None = None
    knowledge: Knowledge | None = None

    @property
    def damage(self) -> str:
        """What was found to have happened to its files since it was sealed; empty where nothing was."""
        return "" if self.knowledge is None else self.knowledge.files.damage

    def close(self) -> None:
        """Close the files that are kept open for rewinding; they are opened again when wanted."""
        if self.knowledge is not None:
            self.knowledge.files.close()


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one branch.

    ``directory`` is the branch's own and holds everything; ``data`` is where its server finds the data directory,
    which for an ``overlay`` exists only in the server's own mount namespace.
    """

    directory: Path
    data: Path
    overlay: Overlay | None = None

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.directory / "log"

    def data_seen_from_outside(self, pid: int) -> Path:
        """The data directory as any process can open it while the server with ``pid`` lives."""
        return self.data if self.overlay is None else Path(f"/proc/{pid}/root{self.data}")


class Storage(Protocol):
    """One rung of the storage ladder. Raises OSError; then what it began to make may be left to :meth:`remove`."""

    rung: Rung
    recycles: bool
    """Whether :meth:`refresh` is quicker than :meth:`remove` and a new :meth:`branch`."""

    def make(self, data: Path) -> None:
        """Make an empty directory for a new data directory; its parent exists."""

    def copy(self, source: Path, data: Path, tree: Tree, *, live: bool = False) -> None:
        """Make ``data`` a data directory of its own: ``tree`` as it lies in ``source``, or everything in it.

        With ``live`` a running server owns ``source``, which may be an overlay's view.
        """

    def branch(self, sealed: Sealed, directory: Path) -> Place:
        """Make ``directory`` a branch of ``sealed``."""

    def refresh(self, place: Place, sealed: Sealed) -> None:
        """Put the files of a stopped branch back to those of ``sealed``, from which it was made."""

    def remove(self, directory: Path) -> None:
        """Remove ``directory`` with everything in it; nothing there is fine."""


@contextlib.contextmanager
def removed_on_failure(storage: Storage, directory: Path) -> Iterator[None]:
    """An error in the block removes ``directory`` with everything in it."""
    try:
        yield
    except BaseException:
        storage.remove(directory)
        raise


def relative(path: Path, start: Path) -> str:
    """``path`` as seen from ``start``: what both have in common does not appear in it."""
    return os.path.relpath(path, start)
