"""The tree of the page: base, branch of the run, branches of workers, branches of tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from pytest_lakebranch.amounts import many, natural
from pytest_lakebranch.model import Built, Lease, Summary
from pytest_lakebranch.reporting.words import mark, seconds, table, text

HEADS = ("Test", "Branch", ">Waited", ">Used", "Ended", "Why")
RANK = {"run": 0, "worker": 1}
Children = defaultdict[str | None, list[Lease]]
OPEN_UP_TO = 12
"""Branches up to which a group is shown unfolded."""


def tree(summary: Summary) -> str:
    """The bases with everything that was forked from them."""
    children: defaultdict[str | None, list[Lease]] = defaultdict(list)
    for lease in sorted(summary.leases, key=lambda lease: lease.began):
        children[lease.under].append(lease)
    built = {base.key: base for base in summary.bases}
    keys = dict.fromkeys([*built, *(lease.base for lease in summary.leases)])
    return "\n".join(_base(key, built.get(key), children) for key in keys)


def _base(key: str, built: Built | None, children: Children) -> str:
    mine = [lease for lease in children[None] if lease.base == key]
    how = ""
    if built is not None:
        how = f"built in {seconds(built.seconds)}" if built.steps else "from the cache"
    steps = "".join(f"<li><code>{text(step)}</code></li>" for step in (built.steps if built else ()))
    inner = (f"<ol>{steps}</ol>" if steps else "") + _forks(mine, children)
    return _fold(f"<b>base</b> <code>{text(key[:12])}</code> {text(how)}", inner, unfolded=True)


def _forks(leases: Sequence[Lease], children: Children) -> str:
    """Leases that others were forked from, or that live longer than a test, one by one; all others by worker."""
    single = [lease for lease in leases if _stands_alone(lease, children)]
    by_worker: defaultdict[str, list[Lease]] = defaultdict(list)
    for lease in leases:
        if not _stands_alone(lease, children):
            by_worker[lease.worker].append(lease)
    first = sorted(single, key=lambda lease: (RANK.get(lease.purpose, len(RANK)), lease.began))
    groups = (_group(worker, by_worker[worker]) for worker in sorted(by_worker, key=natural))
    return "\n".join([*(_node(lease, children) for lease in first), *groups])


def _stands_alone(lease: Lease, children: Children) -> bool:
    return lease.purpose in RANK or bool(children[lease.lease])


def _node(lease: Lease, children: Children) -> str:
    what = {"run": "branch of the run", "worker": f"branch of {lease.worker}"}.get(lease.purpose, lease.test)
    below = children[lease.lease]
    end = f"{mark(lease.end.ending)} {text(lease.end.reason)}" if lease.end else "not ended"
    summary = f"<b>{text(what)}</b> <code>{text(lease.branch)}</code> {end}"
    summary += f" · {many(len(below), 'branch')} forked from it" if below else ""
    return _fold(summary, _forks(below, children), unfolded=True) if below else f'<div class="leaf">{summary}</div>'


def _group(worker: str, leases: Sequence[Lease]) -> str:
    caption = f"Branches on {worker}"
    title = f"<b>{text(worker)}</b> {many(len(leases), 'lease')} {_endings(leases)}"
    return _fold(title, table(caption, HEADS, map(row, leases)), unfolded=len(leases) <= OPEN_UP_TO)


def _endings(leases: Iterable[Lease]) -> str:
    counted: defaultdict[str, int] = defaultdict(int)
    for lease in leases:
        if lease.end:
            counted[lease.end.ending] += 1
    return " ".join(f"{mark(ending)} {count:,}" for ending, count in sorted(counted.items()))


def row(lease: Lease) -> tuple[str, ...]:
    """A lease as cells under HEADS."""
    name = text(lease.test) + (f" <small>({text(lease.purpose)})</small>" if lease.purpose != "test" else "")
    end = lease.end
    used, how, why = (seconds(end.held), mark(end.ending), text(end.reason)) if end else ("", "", "not ended")
    return name, f"<code>{text(lease.branch)}</code>", seconds(lease.waited), used, how, why


def _fold(title: str, inner: str, *, unfolded: bool) -> str:
    return f"<details{' open' if unfolded else ''}><summary>{title}</summary>\n{inner}</details>"
