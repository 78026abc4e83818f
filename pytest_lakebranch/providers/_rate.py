"""How many requests a minute: a limit of ours, and pauses that the service asked for."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from pytest_lakebranch.waiting import Clock, Deadline

MINUTE = 60.0


@dataclass(slots=True)
class Rate:
    """At most ``per_minute`` requests in any minute (None: as many as come), for all threads together."""

    per_minute: int | None = None
    clock: Clock = field(default_factory=Clock)
    _sent: deque[float] = field(default_factory=deque)
    _held_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, seconds: float) -> None:
        """Nobody sends anything for this long: the service said so."""
        with self._lock:
            self._held_until = max(self._held_until, self.clock.now() + seconds)

    def wait(self, deadline: Deadline) -> None:
        """Wait for this request's turn, or until the deadline passes: what is late is said by whoever waits for it."""
        while (pause := self._turn()) > 0 and not deadline.passed:
            self.clock.sleep(min(pause, max(deadline.left, 0.001)))

    def _turn(self) -> float:
        """Seconds to wait and ask again; 0 when it is our turn, which is then taken."""
        with self._lock:
            now = self.clock.now()
            if now < self._held_until:
                return self._held_until - now
            while self._sent and self._sent[0] <= now - MINUTE:
                self._sent.popleft()
            if self.per_minute is not None and len(self._sent) >= self.per_minute:
                return self._sent[0] + MINUTE - now
            if self.per_minute is not None:
                self._sent.append(now)
            return 0.0
