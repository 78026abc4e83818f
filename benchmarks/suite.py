"""What a suite pays: the beginning of a second run, and a test that only reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, median, run_pytest, workplace

TESTS = 200
CONFTEST = """
import json, time
import psycopg, pytest

times = {}

def pytest_collection_finish(session):
    times["collected"] = time.perf_counter()

def pytest_runtest_call(item):
    times.setdefault("first", time.perf_counter())

@pytest.fixture(scope="session")
def one(lakebranch_run):
    return lakebranch_run.conninfo

@pytest.fixture
def plain_conn(one):
    with psycopg.connect(one) as conn:
        yield conn

spent = {}

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    result = yield
    spent.setdefault(item.name.split("[")[0], []).append((time.perf_counter() - began) * 1e3)
    return result

def pytest_sessionfinish(session):
    with open("times.json", "w") as file:
        json.dump({"begin": (times["first"] - times["collected"]) * 1e3, "spent": spent}, file)
"""
READING = f"""
import pytest

@pytest.mark.parametrize("n", range({TESTS}))
@pytest.mark.parametrize("round", range(1))
def test_plain(plain_conn, n, round):
    plain_conn.execute("SELECT count(*) FROM t").fetchone()

@pytest.mark.parametrize("n", range({TESTS}))
def test_branch(lakebranch_conn, n):
    lakebranch_conn.execute("SELECT count(*) FROM t").fetchone()

@pytest.mark.parametrize("n", range({TESTS}))
def test_write(lakebranch_conn, n):
    lakebranch_conn.execute("INSERT INTO t VALUES (1)")
    lakebranch_conn.commit()
"""


def figures() -> Iterator[Figure]:
    """Two runs of the same suite: the first builds the base, the second is measured."""
    with workplace() as project:
        (project / "pytest.ini").write_text("[pytest]\nlakebranch_base = sql:schema.sql\n")
        (project / "schema.sql").write_text("CREATE TABLE t (x int); INSERT INTO t VALUES (1);")
        (project / "conftest.py").write_text(CONFTEST)
        (project / "test_reading.py").write_text(READING)
        run_pytest(project, "-q", "-k", "test_branch", home=project / "home")
        begins = [measured(project, "-k", "test_branch and 1]")["begin"] for _ in range(5)]
        yield Figure("second run: from the end of collection to the first test", median(begins), "ms", 500)
        spent = measured(project)["spent"]
    plain, branch, write = (median(spent[name][20:]) for name in ("test_plain", "test_branch", "test_write"))
    yield Figure("a test that reads over a plain connection, whole protocol", plain, "ms")
    yield Figure("a test that reads its branch: added to that", branch - plain, "ms", 1)
    yield Figure("a test that writes to its branch: added to that", write - plain, "ms")


def measured(project: Path, *arguments: str) -> dict[str, object]:
    """The times of one run."""
    run_pytest(project, "-q", *arguments, home=project / "home")
    stored: dict[str, object] = json.loads((project / "times.json").read_text())
    return stored
