"""What reports cost a run: the time in which both are written, as a part of the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.measure import Figure, median, run_pytest, workplace

TESTS = 1000
ROUNDS = 3
CONFTEST = """
import json, time
from pytest_lakebranch import plugin

began, write = time.perf_counter(), plugin._write_reports

def timed(config):
    before = time.perf_counter()
    write(config)
    now = time.perf_counter()
    with open("times.json", "w") as file:
        json.dump({"reports": now - before, "run": now - began}, file)

plugin._write_reports = timed
"""
SUITE = f"""
import pytest

@pytest.mark.parametrize("n", range({TESTS}))
def test_it(lakebranch_conn, n):
    if n % 2:
        lakebranch_conn.execute("INSERT INTO t VALUES (1)")
        lakebranch_conn.commit()
    lakebranch_conn.execute("SELECT count(*) FROM t").fetchone()
"""
ASKED = ("--lakebranch-report=report.html", "--lakebranch-report=report.json")


def figures() -> Iterator[Figure]:
    """A run of short tests with two workers, of which half write: what reports cost weighs most there."""
    with workplace() as project:
        (project / "pytest.ini").write_text("[pytest]\nlakebranch_base = sql:schema.sql\n")
        (project / "schema.sql").write_text("CREATE TABLE t (x int); INSERT INTO t VALUES (1);")
        (project / "conftest.py").write_text(CONFTEST)
        (project / "test_it.py").write_text(SUITE)
        parts = []
        for _ in range(ROUNDS):
            run_pytest(project, "-q", "-n", "2", *ASKED, home=project / "home")
            times = json.loads((project / "times.json").read_text())
            parts.append(100 * times["reports"] / times["run"])
        yield Figure(f"HTML and JSON report of a run of {TESTS:,} short tests, part of its time", median(parts), "%", 1)
