"""The timeline of the page: a group of lanes for each worker, with waiting, use and release of each lease."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_lakebranch.amounts import many, natural
from pytest_lakebranch.model import Lease, Summary
from pytest_lakebranch.reporting.words import seconds, text

PURPOSES = {"test": "tests", "fork": "forks", "fixture": "fixtures", "worker": "worker", "run": "run"}
THINNEST = 0.02
"""Percent of the run below which a wait or a release is not drawn: nobody could see it."""
TICKS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """From times to percent of the width."""

    began: float
    ended: float

    @classmethod
    def of(cls, summary: Summary) -> Scale:
        """From the first thing that happened, which is when somebody asked for a branch, to the end of the run."""
        starts = [lease.began - lease.waited for lease in summary.leases] + [base.began for base in summary.bases]
        began = min(starts, default=summary.began)
        return cls(began, max(summary.ended, began + 0.001))

    def left(self, moment: float) -> float:
        """Where a moment is."""
        return 100 * (moment - self.began) / (self.ended - self.began)

    def width(self, duration: float) -> float:
        """How wide a duration is."""
        return 100 * duration / (self.ended - self.began)


@dataclass(frozen=True, slots=True)
class Bar:
    """One thing in a lane: when it began and ended, and how it is drawn."""

    began: float
    ended: float
    html: str


def timeline(summary: Summary) -> str:
    """The whole timeline."""
    scale = Scale.of(summary)
    workers = sorted({lease.worker for lease in summary.leases} | {base.worker for base in summary.bases}, key=natural)
    groups = "\n".join(_worker(worker, summary, scale) for worker in workers)
    return f'<div class="timeline">{groups}\n{_axis(scale)}</div>'


def _worker(worker: str, summary: Summary, scale: Scale) -> str:
    leases = [lease for lease in summary.leases if lease.worker == worker]
    lanes = [_lane("base", bars) for bars in _apart(_bases(worker, summary, scale))]
    for purpose, name in PURPOSES.items():
        mine = [_bar(lease, summary, scale) for lease in leases if lease.purpose == purpose]
        lanes += [_lane(name, bars) for bars in _apart(mine)]
    waited = sum(lease.waited for lease in leases)
    used = sum(lease.end.held for lease in leases if lease.end and lease.purpose == "test")
    label = f"{worker}: {many(len(leases), 'lease')}, waited {seconds(waited)}, tests used branches for {seconds(used)}"
    return (
        f'<section class="worker"><h3>{text(worker)}</h3><div class="lanes" role="img" aria-label="{text(label)}">'
        f"{''.join(lanes)}</div></section>"
    )


def _lane(name: str, bars: Iterable[Bar]) -> str:
    return f'<div class="lane"><span>{text(name)}</span><div>{"".join(bar.html for bar in bars)}</div></div>'


def _apart(bars: Sequence[Bar]) -> list[list[Bar]]:
    """As few lanes as possible, so that nothing in a lane overlaps."""
    lanes: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: bar.began):
        free = next((lane for lane in lanes if lane[-1].ended <= bar.began + 1e-4), None)
        if free is None:
            lanes.append([bar])
        else:
            free.append(bar)
    return lanes


def _bases(worker: str, summary: Summary, scale: Scale) -> list[Bar]:
    found = []
    for base in summary.bases:
        if base.worker == worker:
            how = f"built from {many(len(base.steps), 'step')}" if base.steps else "found in the cache"
            html = _box(scale, base.began, base.seconds, "base", f"base {how} in {seconds(base.seconds)}")
            found.append(Bar(base.began, base.began + base.seconds, html))
    return found


def _bar(lease: Lease, summary: Summary, scale: Scale) -> Bar:
    asked, end = lease.began - lease.waited, lease.end
    held = end.held if end else summary.ended - lease.began
    releasing = end.releasing if end else 0.0
    parts = [_box(scale, lease.began, held, f"use {end.ending if end else 'open'}", _told(lease))]
    if scale.width(lease.waited) > THINNEST:
        parts.append(_box(scale, asked, lease.waited, "wait", f"{lease.test} waited {seconds(lease.waited)}"))
    if scale.width(releasing) > THINNEST:
        parts.append(_box(scale, lease.began + held, releasing, "release", f"release took {seconds(releasing)}"))
    return Bar(asked, lease.began + held + releasing, "".join(parts))


def _told(lease: Lease) -> str:
    if lease.end is None:
        return f"{lease.test}: branch {lease.branch}, not ended"
    end = lease.end
    return (
        f"{lease.test}: branch {lease.branch} of {lease.parent}, waited {seconds(lease.waited)}, used for "
        f"{seconds(end.held)}, released in {seconds(end.releasing)}: {end.ending} ({end.reason})"
    )


def _box(scale: Scale, began: float, duration: float, kind: str, title: str) -> str:
    left, width = scale.left(began), scale.width(duration)
    return f'<i class="{text(kind)}" style="left:{left:.3f}%;width:{width:.3f}%" title="{text(title)}"></i>'


def _axis(scale: Scale) -> str:
    span = scale.ended - scale.began
    ticks = "".join(f'<span style="left:{scale.width(at):.3f}%">{at:g} s</span>' for at in _ticks(span))
    return f'<div class="lane axis" aria-hidden="true"><span></span><div>{ticks}</div></div>'


def _ticks(span: float) -> Iterator[float]:
    steps = (base * 10.0**power for power in range(-3, 6) for base in (1, 2, 5))
    step = next(step for step in steps if span / step <= TICKS)
    count = 0
    while (at := round(count * step, 6)) <= span:
        yield at
        count += 1
