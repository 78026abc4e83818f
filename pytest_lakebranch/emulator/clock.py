"""The emulator's time of day: the machine's, moved forward on demand; and its spelling in the API."""

from __future__ import annotations

import re
import threading
import time
from datetime import UTC, datetime

from pytest_lakebranch.waiting import Clock

WALL = Clock(now=time.time)
"""Seconds since 1970."""


class WorldTime:
    """Seconds since 1970 as all resources and tokens see them."""

    def __init__(self, clock: Clock = WALL) -> None:
        self._clock = clock
        self._ahead = 0.0
        self._over = threading.Event()

    def now(self) -> float:
        """The present, to the microsecond, as it is written."""
        return round(self._clock.now() + self._ahead, 6)

    def advance(self, seconds: float) -> None:
        """Move on: what was to happen meanwhile is due."""
        self._ahead += seconds

    def wait(self, seconds: float) -> None:
        """Let real time pass, which ends at once when the emulator does."""
        if seconds > 0:
            self._over.wait(seconds)

    def end(self) -> None:
        """Wake everybody who waits."""
        self._over.set()


RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_timestamp(text: str) -> float:
    """Seconds since 1970, of RFC 3339 and not of all that ISO 8601 allows; raises ValueError."""
    if RFC_3339.fullmatch(text) is None:
        raise ValueError(text)
    return datetime.fromisoformat(text).timestamp()


def duration(seconds: float) -> str:
    """As protobuf writes it in JSON: ``3600s``."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def parse_duration(text: str) -> float:
    """Seconds; raises ValueError."""
    found = re.fullmatch(r"(-?\d+(?:\.\d{1,9})?)s", text)
    if found is None:
        raise ValueError(text)
    return float(found[1])
