"""How many spares to keep ready: a fixed number where they are cheap, else as many as tests use up."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Protocol

from pytest_lakebranch.providers.base import Provider

AHEAD = 2.0
"""How far ahead of demand to be, in times that a start takes: demand is seen only as fast as it is served."""


class Stock(Protocol):
    """A pool's rule. Called with the pool's lock held."""

    def wanted(self, have: int) -> int:
        """How many spares to have, when there are or will be ``have`` beyond those that are waited for."""

    def keeps(self, idle: int) -> bool:
        """Whether a branch that comes back clean is kept beside ``idle`` others."""

    def used_up(self) -> None:
        """A branch came back that is of no use any more."""


class Fixed:
    """See Stock."""

    def __init__(self, spares: int) -> None:
        self._spares = spares

    def wanted(self, have: int) -> int:  # noqa: ARG002  (see Stock)
        """See Stock."""
        return self._spares

    def keeps(self, idle: int) -> bool:
        """See Stock."""
        return idle <= self._spares

    def used_up(self) -> None:
        """See Stock."""


class OnDemand:
    """See Stock. As many as were used up in the time that a start takes, and again as many, as far as there is room.

    A suite that only reads never has any.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._used: deque[float] = deque(maxlen=1000)

    def wanted(self, have: int) -> int:
        """See Stock."""
        window = AHEAD * (self._provider.start_seconds or 0.0)
        now = time.monotonic()
        recent = sum(1 for moment in self._used if now - moment <= window)
        room = self._provider.room
        most = recent if room is None else min(recent, max(0, have) + room)
        return math.ceil(most)

    def keeps(self, idle: int) -> bool:  # noqa: ARG002  (see Stock)
        """See Stock."""
        return True

    def used_up(self) -> None:
        """See Stock."""
        self._used.append(time.monotonic())


def stock_for(provider: Provider, spares: int) -> Stock:
    """The rule for a provider; ``spares`` counts where they are cheap."""
    return Fixed(spares) if provider.start_seconds is None else OnDemand(provider)
