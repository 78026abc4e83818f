"""What the tests of the REST client are made of: what a server answers, and a clock that nobody waits for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_lakebranch.waiting import Clock

SECRET = "dapi-planted-secret"


@dataclass
class Script:
    """What a server answers, in order: status, headers, body; ``drop`` hangs up, ``half`` hangs up in the midst."""

    answers: list[Any] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    date: str = ""


@dataclass
class Time:
    """A clock that moves when somebody sleeps."""

    passed: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.passed += seconds

    @property
    def clock(self) -> Clock:
        """For the client."""
        return Clock(now=lambda: self.passed, sleep=self.sleep)
