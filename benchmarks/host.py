"""The host: its answer to who asks for a branch that is ready, reaping, and what reports cost."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.cli import many_branches
from benchmarks.measure import Figure, median, milliseconds, workplace
from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.branches.reaper import reap
from pytest_lakebranch.config import Settings, resolve
from pytest_lakebranch.host.client import HostClient, connect_or_start
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.model import Lease, Summary
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.reporting.files import write_reports
from pytest_lakebranch.state import State

LEASES = 300
DEAD = 200
IN_REPORT = 1000


def figures() -> Iterator[Figure]:
    """A host in a process of its own, as a run has it; reaping and reports in this one."""
    with workplace() as home:
        reports = [str(home / "report.html"), str(home / "report.json")]
        settings = resolve(options={"home": str(home), "report": reports}, environ={}, ini={}, root=home)
        with host(settings) as client:
            key, _, _ = client.base(Plan((), ()))
            yield Figure("a lease of a branch that is ready: the host's answer", median(answers(client, key)), "ms", 1)
            summary = client.finish()
        yield Figure(f"HTML and JSON report of {IN_REPORT:,} leases", report(settings, summary), "ms")
        many_branches(home, DEAD)
        yield Figure(f"reaping {DEAD} branches of a dead run", milliseconds(lambda: reap(State(home))), "ms", 3000)
        shutil.rmtree(home / "runs")


@contextmanager
def host(settings: Settings) -> Iterator[HostClient]:
    """A line to a host that has just been started."""
    directory = RunDirectory.of(State.at(settings.home).ensure(), uuid.uuid4().hex)
    me = Identity.of(os.getpid())
    client = connect_or_start(directory, worker="main", settings=settings, controller=me, workers=1)
    try:
        yield client
    finally:
        client.close()


def answers(client: HostClient, key: str) -> list[float]:
    """Milliseconds of each lease; every one is given back clean, and so is ready for the next."""
    times = []
    for number in range(LEASES):
        began = time.perf_counter()
        grant = client.lease(Request("main", f"test_{number}", "test", key))
        times.append((time.perf_counter() - began) * 1e3)
        client.release(grant.lease)
    return times[10:]


def report(settings: Settings, summary: Summary) -> float:
    """Milliseconds for both reports of a run with many leases."""
    leases = tuple(_numbered(summary.leases[number % len(summary.leases)], number) for number in range(IN_REPORT))
    many = replace(summary, leases=leases)
    return milliseconds(lambda: write_reports(settings, many, run="bench"))


def _numbered(lease: Lease, number: int) -> Lease:
    return replace(lease, lease=f"l{number}", test=f"test_it.py::test_{number}")
