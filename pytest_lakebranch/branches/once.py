"""Work that is to be done once for a branch which several workers share."""

from __future__ import annotations

import threading


class Once:
    """Who does which work: the first who asks; the others wait until it is done.

    Work is named by a key. If the one who does it fails or dies, whoever waits is asked to do it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._done: set[str] = set()
        self._doing: dict[str, str] = {}

    def begin(self, key: str, worker: str) -> bool:
        """Whether ``worker`` is to do the work; False when it is done. Waits while somebody else is at it."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._doing)
            if key in self._done:
                return False
            self._doing[key] = worker
            return True

    def end(self, key: str, *, done: bool) -> None:
        """Note that the work was done, or was not."""
        with self._changed:
            self._doing.pop(key, None)
            if done:
                self._done.add(key)
            self._changed.notify_all()

    def void(self, worker: str) -> None:
        """What a dead worker was at is to be done by another."""
        with self._changed:
            keys = [key for key, doer in self._doing.items() if doer == worker]
        for key in keys:
            self.end(key, done=False)
