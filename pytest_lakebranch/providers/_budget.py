"""How many branches a run may have at a time: what it was told, and what the service's refusals teach."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.waiting import Clock, Deadline

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
"""Seconds during which a refusal is believed: at first, and after many."""
LOOK_AGAIN = 0.5


@dataclass(slots=True)
class Budget:
    """At most ``most`` branches at a time, for all workers together.

    ``short`` is called, without our lock, when somebody waits: whoever keeps branches in stock may give some back.
    """

    most: int
    clock: Clock = field(default_factory=Clock)
    short: Callable[[], None] = field(default=lambda: None)
    _taken: int = 0
    _waiting: int = 0
    _learnt: int | None = None
    _learnt_until: float = 0.0
    _pause: float = FIRST_PAUSE
    _why: str = ""
    _closed: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def room(self) -> int:
        """How many more could be had at once, those that are waited for excepted."""
        with self._changed:
            return max(0, self._limit() - self._taken - self._waiting)

    def _limit(self) -> int:
        if self._learnt is not None and self.clock.now() >= self._learnt_until:
            self._learnt, self._learnt_until = max(self._learnt, self._taken) + 1, self.clock.now() + self._pause
        return self.most if self._learnt is None else min(self.most, self._learnt)

    def take(self, deadline: Deadline) -> None:
        """Take one, when there is one; raises BranchError when there is none before the deadline."""
        with self._changed:
            self._waiting += 1
        try:
            while not self._try_to_take():
                if self._closed:
                    raise BranchError("the run is ending: no more branches are made.")
                if deadline.passed:
                    raise BranchError(self._reason(deadline))
                self.short()
                with self._changed:
                    self._changed.wait(min(LOOK_AGAIN, max(deadline.left, 0.001)))
        finally:
            with self._changed:
                self._waiting -= 1

    def _try_to_take(self) -> bool:
        with self._changed:
            if self._closed or self._taken >= self._limit():
                return False
            self._taken += 1
            return True

    def _reason(self, deadline: Deadline) -> str:
        learnt = f"; the service said: {self._why}" if self._why else ""
        return (
            f"there was no room for another branch within {deadline.seconds:.0f} s (lakebranch_deadline): "
            f"{self._taken} of {self._limit()} are in use{learnt}. Run fewer workers, delete branches "
            "(`lakebranch reap`), or raise lakebranch_branches if the project allows more."
        )

    def give_back(self, *, used: bool = True) -> None:
        """One that was taken is free again; one that was ``used`` makes room at the service, too, or soon will."""
        with self._changed:
            self._taken -= 1
            if used:
                self._pause = FIRST_PAUSE
                self._learnt_until = min(self._learnt_until, self.clock.now() + FIRST_PAUSE)
            self._changed.notify_all()

    def believe(self, why: str, *, useless: int = 0) -> None:
        """The service refused one that was taken, and is given back: it says that there is room for no more now.

        ``useless`` are those among what is taken that it refused and that are still to be given back.
        What is deleted may count a while longer, and others may give something back: one more is tried now and then.
        """
        with self._changed:
            self._pause = min(LONGEST_PAUSE, 2 * self._pause if self._learnt is not None else FIRST_PAUSE)
            self._learnt, self._learnt_until = self._taken - useless, self.clock.now() + self._pause
            self._why = why.rstrip(".")

    def succeeded(self) -> None:
        """The service gave one."""
        with self._changed:
            self._pause = FIRST_PAUSE

    def close(self) -> None:
        """Whoever waits is refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
