"""How long locks were held, put together from samples and from notes made inside the transactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SLACK = 0.005
"""Seconds between two sightings that may be one hold: longer than the pause between two samples."""


class Key(NamedTuple):
    """Who holds what, how: the server process, the table and the mode."""

    pid: int
    table: int
    mode: str


class Sample(NamedTuple):
    """All locks that were held at a moment, which is when they were found to have changed."""

    at: float
    held: frozenset[Key]


class Sighting(NamedTuple):
    """A lock that is known to have been held from ``began``, at the earliest, to ``at``."""

    began: float
    at: float
    key: Key


def longest(samples: Sequence[Sample], sightings: Iterable[Sighting], end: float) -> dict[Key, float]:
    """For each lock the longest time in seconds for which it was held without a break, at most."""
    spans: defaultdict[Key, list[tuple[float, float]]] = defaultdict(list)
    for number, sample in enumerate(samples):
        until = samples[number + 1].at if number + 1 < len(samples) else end
        for key in sample.held:
            spans[key].append((sample.at, until))
    for sighting in sightings:
        spans[sighting.key].append((sighting.began, sighting.at))
    return {key: max(one - other for other, one in _joined(found)) for key, found in spans.items()}


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for began, ended in sorted(spans):
        if joined and began <= joined[-1][1] + SLACK:
            joined[-1] = (joined[-1][0], max(joined[-1][1], ended))
        else:
            joined.append((began, ended))
    return joined
