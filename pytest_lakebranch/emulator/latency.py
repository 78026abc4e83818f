"""How long things take: distributions of seconds, written as text."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_lakebranch.errors import ConfigError

Draw = Callable[[random.Random, Sequence[float]], float]
KINDS: dict[str, tuple[int, Draw]] = {
    "fixed": (1, lambda _, values: values[0]),
    "uniform": (2, lambda chance, values: chance.uniform(*values)),
    "normal": (2, lambda chance, values: chance.gauss(*values)),
    "lognormal": (2, lambda chance, values: values[0] * chance.lognormvariate(0, values[1])),
    "exponential": (1, lambda chance, values: chance.expovariate(1 / values[0]) if values[0] else 0.0),
}
"""How many values each has, and how it is drawn."""
FORMS = "SECONDS, uniform:LOW:HIGH, normal:MEAN:DEVIATION, lognormal:MEDIAN:SIGMA, exponential:MEAN"


@dataclass(frozen=True, slots=True)
class Distribution:
    """Seconds, drawn anew each time; never negative."""

    text: str
    kind: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """From its text; raises ConfigError."""
        kind, *words = text.split(":") if ":" in text else ("fixed", text)
        try:
            values = tuple(float(word) for word in words)
        except ValueError:
            values = ()
        if kind not in KINDS or len(values) != KINDS[kind][0] or not all(0 <= value < 1e6 for value in values):
            raise ConfigError(f"latency {text!r} is none of {FORMS}.")
        return cls(text, kind, values)

    def draw(self, chance: random.Random) -> float:
        """One value."""
        return max(0.0, KINDS[self.kind][1](chance, self.values))


@dataclass
class Latencies:
    """Latencies by what they are of; what is not in it takes no time of its own."""

    known: frozenset[str]
    chance: random.Random = field(default_factory=random.Random)
    of: dict[str, Distribution] = field(default_factory=dict)

    def set(self, written: Mapping[str, str]) -> None:
        """Add or replace; raises ConfigError, and changes nothing then."""
        for name in written:
            if name not in self.known:
                raise ConfigError(f"there is no latency of {name!r}; known are {', '.join(sorted(self.known))}.")
        self.of |= {name: Distribution.parse(text) for name, text in written.items()}

    def draw(self, name: str) -> float:
        """Seconds that ``name`` takes this time."""
        found = self.of.get(name)
        return 0.0 if found is None else found.draw(self.chance)
