"""The sealed states of one run: layers of the machine's cache, and presents of its branches that were frozen."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.local import catalog_cache
from pytest_lakebranch.providers.local.disk import translated
from pytest_lakebranch.providers.local.layers import Layers
from pytest_lakebranch.providers.local.storage.base import Sealed, Storage, removed_on_failure
from pytest_lakebranch.providers.local.storage.tree import scan

T = TypeVar("T")


class States:
    """All sealed states that branches of this run are made from; what is frozen lies in ``directory``.

    ``recover`` brings a data directory to rest that is as a crash left it. Whoever holds the provider's lock may call;
    nothing here calls the provider.
    """

    def __init__(self, layers: Layers, storage: Storage, *, directory: Path, recover: Callable[[Path], None]) -> None:
        self._layers = layers
        self._storage = storage
        self._directory = directory
        self._recover = recover
        self._lock = threading.Lock()
        self._sealed: dict[str, Sealed] = {}
        self._forgotten: set[str] = set()

    @property
    def present(self) -> list[Sealed]:
        """All that are known by now."""
        with self._lock:
            return list(self._sealed.values())

    def cached(self, key: str) -> ForkPoint | None:
        """The state with this key, held against clean-up until :meth:`close`; None when there is none."""
        sealed = self._find(key)
        return None if sealed is None else _point(sealed)

    def at(self, point: ForkPoint) -> Sealed:
        """The state at a fork point; raises BranchError when it is no more."""
        sealed = self._find(point.key)
        if sealed is None:
            raise BranchError(f"there is no layer or frozen present {point.key} ({point.location}): was it removed?")
        if sealed.damage:
            self._layers.forget(sealed)  # a frozen present is in no cache
            raise BranchError(
                f"{sealed.damage} while this run used it ({sealed.data}), so no more branches are made of it: they "
                "could be wrong. Something wrote into the cache of bases. Run again: the base is built anew."
            )
        return sealed

    def _find(self, key: str) -> Sealed | None:
        with self._lock:
            sealed = self._sealed.get(key) or self._layers.find(key)
            if sealed is not None:
                self._sealed[key] = sealed
            return sealed

    def _known(self, sealed: Sealed) -> ForkPoint:
        with self._lock:
            self._sealed[sealed.key] = sealed
        return _point(sealed)

    def building(self, key: str) -> AbstractContextManager[None]:
        """Exclude every other builder of a layer."""
        return self._layers.building(key)

    def commit(self, key: str, data: Path) -> ForkPoint:
        """Make the stopped ``data`` the layer ``key``; raises BaseError."""
        return self._known(self._layers.commit(key, data))

    def adopt(self, doing: str, bring: Callable[[Path, Storage], T]) -> tuple[ForkPoint, T]:
        """A frozen present made of what ``bring`` puts at the path it is given, and what it returns.

        That is a data directory as a crash leaves it, or an online backup. Raises BranchError or MachineError.
        """
        directory = self._directory / uuid.uuid4().hex[:12]
        data = directory / "data"
        with translated(directory, doing), removed_on_failure(self._storage, directory):
            directory.mkdir(mode=0o700)
            brought = bring(data, self._storage)
            self._recover(data)
            return self._known(Sealed(f"frozen-{directory.name}", data, scan(data))), brought

    def knows(self, point: ForkPoint) -> bool:
        """Whether branches can still be forked from there."""
        with self._lock:
            return point.key in self._sealed and point.key not in self._forgotten

    def is_frozen(self, sealed: Sealed) -> bool:
        """Whether it is a frozen present, which goes with the run; not a layer."""
        return sealed.data.parent.parent == self._directory

    def forget(self, point: ForkPoint) -> Sealed | None:
        """Let a frozen present go with its last branch, and return it; a layer stays."""
        with self._lock:
            sealed = self._sealed.get(point.key)
            if sealed is None or not self.is_frozen(sealed):
                return None
            self._forgotten.add(point.key)
            return sealed

    def drop_if_unused(self, sealed: Sealed, *, used: bool) -> bool:
        """Whether the state, which is forgotten, was taken out just now: then its files are the caller's to remove."""
        with self._lock:
            if used or sealed.key not in self._forgotten:
                return False
            self._forgotten.remove(sealed.key)
            self._sealed.pop(sealed.key, None)
            return True

    @staticmethod
    def caches(sealed: Sealed) -> dict[str, bytes]:
        """The state's kept caches of the catalog; read once."""
        if sealed.caches is None:
            sealed.caches = catalog_cache.read(sealed.data)
        return sealed.caches

    def close(self) -> None:
        """Let go of all layers."""
        self._layers.close()


def _point(sealed: Sealed) -> ForkPoint:
    return ForkPoint(sealed.key, str(sealed.data))
