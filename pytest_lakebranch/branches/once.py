"""Work that is to be done once for a branch which several workers share."""

from __future__ import annotations

import threading


class Once:
    """Who does which work: the first who asks; the others ask again until it is done.

    Work is named by a key. If the one who does it fails or dies, whoever asks next is to do it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._doing: dict[str, str] = {}

    def begin(self, key: str, worker: str) -> bool | None:
        """Whether ``worker`` is to do the work; False when it is done, None while somebody else is at it."""
        with self._lock:
            if key in self._doing:
                return None
            if key in self._done:
                return False
            self._doing[key] = worker
            return True

    def end(self, key: str, *, done: bool) -> None:
        """Note that the work was done, or was not."""
        with self._lock:
            self._doing.pop(key, None)
            if done:
                self._done.add(key)

    def void(self, worker: str) -> None:
        """What a dead worker was at is to be done by another."""
        with self._lock:
            keys = [key for key, doer in self._doing.items() if doer == worker]
        for key in keys:
            self.end(key, done=False)
