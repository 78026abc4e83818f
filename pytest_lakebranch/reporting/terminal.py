"""The header and the summary on the terminal."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from pytest_lakebranch import answers
from pytest_lakebranch.amounts import many, size_text
from pytest_lakebranch.config import Settings, not_default
from pytest_lakebranch.model import KeptBranch, Lease, ProviderFacts, Summary
from pytest_lakebranch.reporting.files import Written

SLOW = 0.1
"""Seconds of waiting for a branch from which a test is named in the summary."""
NAMED = 3


def header(settings: Settings, facts: ProviderFacts | None) -> list[str]:
    """Provider, PostgreSQL and rung where they are known, and each setting that is not a default."""
    first = f"lakebranch: {settings.provider}"
    if facts is not None:
        first += f", PostgreSQL {facts.postgres} ({facts.origin}), storage {facts.storage} ({facts.storage_reason})"
    return [first, f"lakebranch settings: {'; '.join(not_default(settings))}"]


def write_summary(reporter: pytest.TerminalReporter, config: pytest.Config, summary: Summary) -> None:
    """The run's branches, as a section of pytest's terminal summary."""
    quiet = config.get_verbosity() < 0 and not summary.left_behind + summary.remarks
    more, wrong = answers.report_lines(config, summary)
    lines = [] if quiet else [*summary_lines(summary), *more]
    if lines or wrong:
        reporter.section("lakebranch")
    for line in lines:
        reporter.line(line)
    for line in wrong:
        reporter.line(line, red=True)


def say_reports(reporter: pytest.TerminalReporter, written: Sequence[Written], *, quiet: bool) -> None:
    """Where the reports are; what could not be written is said also where little is to be said."""
    failures = [one for one in written if one.failure]
    for one in failures if quiet else written:
        if one.failure:
            reporter.line(f"lakebranch report {one.path}: not written: {one.failure}", red=True)
        else:
            reporter.line(f"lakebranch report: {one.path}")


def summary_lines(summary: Summary) -> list[str]:
    """The summary as lines of text."""
    lines = [_base_line(summary), _leases_line(summary.leases), *_reason_lines(summary.leases)]
    lines += [_waited_line(summary.leases)]
    lines += _kept_lines(summary.kept)
    lines += [_connections_line(summary.leases), *(f"left behind: {what}" for what in summary.left_behind)]
    lines += summary.remarks
    return [line for line in lines if line]


def _base_line(summary: Summary) -> str:
    built = [base for base in summary.bases if base.steps]
    if not summary.bases:
        return ""
    facts = summary.facts
    where = f"PostgreSQL {facts.postgres}, {facts.storage}"
    if not built:
        return f"base from the cache ({where})"
    steps = sum(len(base.steps) for base in built)
    seconds = sum(base.seconds for base in built)
    return f"base built in {seconds:.1f} s from {many(steps, 'step')} ({where})"


def _leases_line(leases: Sequence[Lease]) -> str:
    endings = Counter(lease.end.ending for lease in leases if lease.end and lease.purpose == "test")
    reasons = Counter(
        lease.end.reason
        for lease in leases
        if lease.end and lease.purpose == "test" and lease.end.reason == "destructive"
    )
    others = Counter(lease.purpose for lease in leases if lease.purpose != "test")
    parts = [f"{count} {ending}" for ending, count in sorted(endings.items())]
    text = f"leases of tests: {sum(endings.values())}" + (f" ({', '.join(parts)})" if parts else "")
    text += f", of these {reasons['destructive']} destructive" if reasons else ""
    return text + "".join(f"; {many(count, purpose)}" for purpose, count in sorted(others.items()))


def _reason_lines(leases: Sequence[Lease]) -> list[str]:
    """Why branches of tests were replaced, the most frequent reasons first."""
    ends = [lease.end for lease in leases if lease.end and lease.purpose == "test"]
    reasons = Counter(end.reason for end in ends if end.ending == "replace" and end.reason != "destructive")
    return [f"  {count} replaced: {reason.splitlines()[0]}" for reason, count in reasons.most_common(NAMED)]


def _waited_line(leases: Sequence[Lease]) -> str:
    if not leases:
        return ""
    waits = [lease.waited for lease in leases]
    text = f"waited for branches: {sum(waits):.2f} s in all, median {statistics.median(waits) * 1e3:.1f} ms"
    slowest = sorted((lease for lease in leases if lease.waited >= SLOW), key=lambda lease: -lease.waited)[:NAMED]
    return text + "".join(f"\n  {lease.waited:6.2f} s  {lease.test}" for lease in slowest)


def _kept_lines(kept: Sequence[KeptBranch]) -> list[str]:
    if not kept:
        return []
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(kept[0].until))
    more = [f"  and {len(kept) - NAMED} more: lakebranch ls"] if len(kept) > NAMED else []
    head = f"kept until {when}: {many(len(kept), 'branch')}, {size_text(sum(one.bytes for one in kept))}"
    return [head, *(f"  {one.command}" for one in kept[:NAMED]), *more]


def _connections_line(leases: Sequence[Lease]) -> str:
    left = [lease for lease in leases if lease.end and lease.end.connections]
    if not left:
        return ""
    count = sum(lease.end.connections for lease in left if lease.end)
    names = ", ".join(dict.fromkeys(lease.test for lease in left[:NAMED]))
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    return f"connections left open by tests, and ended: {count} ({names}{more})"
