"""The directories of branches: made, given back, used again, removed."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from pytest_lakebranch.providers.local.storage.base import Place, Sealed, Storage


@dataclass(slots=True)
class Places:
    """All directories of branches of one provider.

    Where the storage recycles, a directory that comes back is parked and put back to its sealed state when the next
    branch of that state is wanted.
    Never more directories exist, parked ones included, than once were in use at once.
    """

    directory: Path
    storage: Storage
    _parked: list[tuple[Sealed, Place]] = field(default_factory=list)
    _in_use: int = 0
    _most: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, sealed: Sealed) -> Place:
        """A branch of ``sealed``; raises OSError, and leaves nothing then."""
        with self._lock:
            self._in_use += 1
            self._most = max(self._most, self._in_use)
            place = self._parked_for(sealed)
            directory = self.directory / uuid.uuid4().hex[:12] if place is None else place.directory
        try:
            if place is None:
                return self.storage.branch(sealed, directory)
            place.log.unlink(missing_ok=True)
            self.storage.refresh(place, sealed)
        except BaseException:
            self._drop(directory)
            raise
        return place

    def _parked_for(self, sealed: Sealed) -> Place | None:
        for index, (source, place) in enumerate(self._parked):
            if source is sealed:
                del self._parked[index]
                return place
        return None

    def give_back(self, place: Place, sealed: Sealed, *, reusable: bool) -> None:
        """Park a directory that no process uses any more, or remove it; raises OSError."""
        if not (reusable and self.storage.recycles):
            self._drop(place.directory)
            return
        with self._lock:
            self._in_use -= 1
            self._parked.append((sealed, place))
            too_many = len(self._parked) + self._in_use - self._most
            surplus = [self._parked.pop(0)[1] for _ in range(max(0, too_many))]
        for old in surplus:
            self.storage.remove(old.directory)

    def let_go(self) -> None:
        """Of a directory that somebody else has taken over."""
        with self._lock:
            self._in_use -= 1

    def _drop(self, directory: Path) -> None:
        self.let_go()
        self.storage.remove(directory)

    def forget(self, sealed: Sealed) -> None:
        """Remove what is parked for ``sealed``."""
        with self._lock:
            gone = [place for source, place in self._parked if source is sealed]
            self._parked = [(source, place) for source, place in self._parked if source is not sealed]
        for place in gone:
            self.storage.remove(place.directory)

    def close(self) -> None:
        """Remove all that is parked."""
        with self._lock:
            gone, self._parked = self._parked, []
        for _, place in gone:
            self.storage.remove(place.directory)
