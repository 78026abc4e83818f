"""Proportional memory (PSS) of idle servers and of the host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, median, provider, run_pytest, workplace
from pytest_lakebranch.processes import children
from pytest_lakebranch.providers.local.compute import LocalCompute

PROBE = """
import os
from pathlib import Path

def pss(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0])

def test_host(lakebranch_conn, request):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"pytest_lakebranch.host" in (entry / "cmdline").read_bytes():
                    Path("host.txt").write_text(str(pss(int(entry.name))))
            except OSError:
                pass
"""


def figures() -> Iterator[Figure]:
    """Eight computes at once, as in a run with eight workers; the median of all their processes together."""
    with workplace() as home, provider(home / "home", "auto") as made:
        base = made.seal(made.build("base", None), "memory")
        computes = [made.start(f"b{number}", base) for number in range(8)]
        sizes = [megabytes(compute) for compute in computes if isinstance(compute, LocalCompute)]
        yield Figure("an idle compute, all its processes, PSS", median(sizes), "MB", 25)
    with workplace() as project:
        (project / "test_host.py").write_text(PROBE)
        run_pytest(project, "-q", home=project / "home")
        yield Figure("the host, PSS", int((project / "host.txt").read_text()) / 1024, "MB", 60)


def megabytes(compute: LocalCompute) -> float:
    """The proportional memory of a server's processes."""
    pids = {compute.server.pid, *children(compute.server.pid)}
    return sum(pss(pid) for pid in pids) / 1024


def pss(pid: int) -> int:
    """Kilobytes."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
