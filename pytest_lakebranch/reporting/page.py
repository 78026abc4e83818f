"""The report for people: one page that needs nothing else, readable without scripts, in light and dark."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from pytest_lakebranch import __version__
from pytest_lakebranch.amounts import many, size_text
from pytest_lakebranch.model import KeptBranch, Lease, Summary
from pytest_lakebranch.reporting.timeline import Scale, timeline
from pytest_lakebranch.reporting.tree import HEADS, row, tree
from pytest_lakebranch.reporting.words import ENDINGS, mark, seconds, table, text

if TYPE_CHECKING:
    from pytest_lakebranch.reporting.files import Report

SLOWEST = 10


def page(report: Report) -> str:
    """The page as HTML."""
    template = resources.files("pytest_lakebranch.reporting").joinpath("page.html").read_text(encoding="utf-8")
    summary, name = report.summary, Path(report.root).name or report.root
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(summary.began))
    facts = summary.facts
    return Template(template).substitute(
        title=text(f"Branches of {name}"),
        name=text(name),
        subtitle=f"{text(when)} · {seconds(summary.ended - summary.began)} · <code>{text(report.root)}</code>",
        provider=f"PostgreSQL {text(facts.postgres)} ({text(facts.origin)}) · {text(facts.provider)}, "
        f"storage {text(facts.storage)} ({text(facts.storage_reason)})",
        tiles="\n".join(_tiles(summary)),
        sections="\n".join(f"<section><h2>{text(head)}</h2>{body}</section>" for head, body in _sections(summary)),
        generator=text(f"pytest-lakebranch {__version__}"),
        run=text(report.run),
    )


def _tiles(summary: Summary) -> Iterator[str]:
    tests = [lease for lease in summary.leases if lease.purpose == "test"]
    waits = [lease.waited for lease in summary.leases]
    workers = len({lease.worker for lease in summary.leases})
    built = [base for base in summary.bases if base.steps]
    building = seconds(sum(base.seconds for base in built)) if built else "cached"
    steps = many(sum(len(base.steps) for base in built), "step") if built else many(len(summary.bases), "base")
    median = f"median {seconds(statistics.median(waits))}" if waits else "nobody asked"
    left = sum(lease.end.connections for lease in summary.leases if lease.end)
    yield _tile("leases of tests", f"{len(tests):,}", f"on {many(workers, 'worker')}")
    yield _tile("waited for branches", seconds(sum(waits)), median)
    yield _tile("base", building, steps)
    yield _tile("connections left open", f"{left:,}", "ended with their leases" if left else "none")


def _tile(name: str, value: str, more: str) -> str:
    return f"<div><dt>{text(name)}</dt><dd><b>{text(value)}</b> <span>{text(more)}</span></dd></div>"


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>" if items else ""


def _sections(summary: Summary) -> Iterator[tuple[str, str]]:
    yield from _if_any("Left behind", _list(summary.left_behind))
    yield from _if_any("Remarks", _list(summary.remarks))
    if not summary.leases:
        yield "Leases", "<p>No test asked for a branch.</p>"
        return
    yield "How leases ended", _endings(summary.leases)
    yield "Timeline", _legend(summary) + timeline(summary) + _before(summary)
    yield "Slowest", _slowest(summary.leases)
    yield from _if_any("Connections left open", _connections(summary.leases))
    yield from _if_any("Kept branches", _kept(summary.kept))
    yield "Tree of branches", tree(summary)


def _if_any(head: str, body: str) -> Iterator[tuple[str, str]]:
    if body:
        yield head, body


def _legend(summary: Summary) -> str:
    """What the colours mean, as far as they occur."""
    seen = {lease.end.ending if lease.end else "open" for lease in summary.leases}
    kinds = [("wait", "waiting")]
    kinds += [(f"use {ending}", f"in use, ended {ending}") for ending in ENDINGS if ending in seen]
    kinds += [("use open", "in use, not ended")] if "open" in seen else []
    kinds += [("release", "release"), ("base", "base built or found")]
    return '<p class="legend">' + "".join(f'<span><i class="{kind}"></i>{name}</span>' for kind, name in kinds) + "</p>"


def _before(summary: Summary) -> str:
    """What the timeline leaves out: a host is there before anybody asks."""
    before = Scale.of(summary).began - summary.began
    return f"<p>A branch was first asked for {seconds(before)} after the run's host began.</p>" if before > 0 else ""


def _endings(leases: Sequence[Lease]) -> str:
    counted: Counter[str] = Counter(lease.end.ending for lease in leases if lease.end)
    total = sum(counted.values())
    bar = "".join(
        f'<i class="use {ending}" style="flex:{counted[ending]}" title="{ending}: {counted[ending]:,}"></i>'
        for ending in ENDINGS
        if counted[ending]
    )
    label = ", ".join(f"{counted[ending]} {ending}" for ending in ENDINGS if counted[ending])
    reasons = Counter((lease.end.ending, _kind(lease.end.reason)) for lease in leases if lease.end)
    rows = (
        (mark(ending), text(reason), f"{count:,}", f"{100 * count / total:.0f} %")
        for (ending, reason), count in sorted(reasons.items(), key=lambda pair: -pair[1])
    )
    means = "; ".join(f"<b>{ending}</b>: {text(meaning)}" for ending, meaning in ENDINGS.items() if counted[ending])
    return f'<div class="share" role="img" aria-label="{text(label)}">{bar}</div><p>{means}.</p>' + table(
        "How leases ended, and why", ("Ended", "Why", ">Leases", ">Share"), rows
    )


def _kind(reason: str) -> str:
    """A reason without its numbers: how many bytes were written does not matter where reasons are counted."""
    return re.sub(r"\d[\d,]*", "…", reason)


def _slowest(leases: Sequence[Lease]) -> str:
    ended = [lease for lease in leases if lease.end and lease.purpose in ("test", "fork", "fixture")]
    waited = sorted((lease for lease in leases if lease.waited > 0), key=lambda lease: -lease.waited)[:SLOWEST]
    used = sorted(ended, key=lambda lease: -(lease.end.held if lease.end else 0))[:SLOWEST]
    return table("The longest waits for a branch", HEADS, map(row, waited)) + table(
        "The longest uses of a branch", HEADS, map(row, used)
    )


def _connections(leases: Iterable[Lease]) -> str:
    left = [(lease.end.connections, lease) for lease in leases if lease.end and lease.end.connections]
    left.sort(key=lambda pair: -pair[0])
    rows = [(text(one.test), text(one.worker), f"<code>{text(one.branch)}</code>", f"{count:,}") for count, one in left]
    return table("Tests that left connections open", ("Test", "Worker", "Branch", ">Connections"), rows) if rows else ""


def _kept(kept: Sequence[KeptBranch]) -> str:
    rows = [
        (
            text(one.test),
            text(one.worker),
            f"<code>{text(one.branch)}</code>",
            size_text(one.bytes),
            time.strftime('<span class="whole">%Y-%m-%d %H:%M</span>', time.localtime(one.until)),
            f"<code>{text(one.command)}</code>",
        )
        for one in kept
    ]
    heads = ("Test", "Worker", "Branch", ">Size", "Until", "To look at it")
    return table("Branches that were kept", heads, rows) if rows else ""
