"""The only place that sleeps: deadlines and polling, with the clock as a parameter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from; tests pass another one."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time, ``seconds`` after it was made."""

    seconds: float
    clock: Clock = field(default_factory=Clock)
    _began: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_began", self.clock.now())

    @property
    def left(self) -> float:
        """Seconds that remain, never negative."""
        return max(0.0, self._began + self.seconds - self.clock.now())

    @property
    def passed(self) -> bool:
        """Whether no time remains."""
        return self.left == 0.0


def poll(probe: Callable[[], T | None], *, deadline: Deadline, every: float = 0.001) -> T | None:
    """Call ``probe`` until it returns something other than None; None when the deadline passed first.

    ``every`` is the first pause in seconds; pauses grow by a tenth up to 50 ms, so that a long wait
    does not burn the processor that the awaited process needs.
    """
    while (found := probe()) is None:
        if deadline.passed:
            return None
        deadline.clock.sleep(min(every, max(deadline.left, 0.0001)))
        every = min(every * 1.1, 0.05)
    return found
