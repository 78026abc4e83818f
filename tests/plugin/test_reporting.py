"""Summary, JUnit properties and hooks."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.plugin.conftest import RECORDER, Project

MODES = pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql="create table item (id int); insert into item values (1), (2);")
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")


def run(project: Project, workers: str, *options: str) -> pytest.RunResult:
    """Run pytest, in this process where it needs no workers."""
    return project.run(*options) if workers == "0" else project.spawn("-n", workers, *options)


SUITE = """
import os, psycopg, pytest

KEPT = []

def test_read(lakebranch_conn):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)

def test_write(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("delete from item")

@pytest.mark.destructive
def test_destroy(lakebranch): ...

@pytest.mark.lakebranch
def test_leave_open():
    for _ in range(2):
        KEPT.append(psycopg.connect(os.environ["DATABASE_URL"]))

def teardown_module():
    for connection in KEPT:
        connection.close()
"""


@MODES
def test_summary(project: Project, workers: str) -> None:
    """The summary tells how leases ended, how long tests waited, and which tests left connections open."""
    project.write(test_it=SUITE)
    result = run(project, workers)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            "*= lakebranch =*",
            "base * (PostgreSQL *, *)",
            "leases of tests: 4 (2 clean, 1 replace, 1 rewind), of these 1 destructive",
            "waited for branches: * s in all, median * ms",
            "connections left open by tests, and ended: 2 (test_it.py::test_leave_open)",
        ]
    )


def test_quiet_has_no_summary(project: Project) -> None:
    """Under -q there is neither header nor summary."""
    project.write(test_it=SUITE)
    result = project.run("-q")
    result.assert_outcomes(passed=4)
    result.stdout.no_fnmatch_line("*lakebranch*")


@MODES
def test_junit_properties(project: Project, workers: str) -> None:
    """Each test has its isolation and branch as properties, and the end and the reason where that was its own."""
    shared = "\n@pytest.mark.lakebranch(isolation='worker')\ndef test_shared(lakebranch): ...\n"
    project.write(test_it=SUITE + "\ndef test_plain(): ...\n" + shared)
    run(project, workers, "--junit-xml=out.xml").assert_outcomes(passed=6)
    found = {
        case.attrib["name"]: {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        for case in ElementTree.parse(project.path / "out.xml").iter("testcase")
    }
    assert found["test_plain"] == {}
    assert set(found["test_shared"]) == {"lakebranch_isolation", "lakebranch_branch"}
    assert found["test_shared"]["lakebranch_isolation"] == "worker"
    assert all(
        set(found[name]) == {"lakebranch_isolation", "lakebranch_branch", "lakebranch_ended", "lakebranch_reason"}
        for name in ("test_read", "test_write", "test_destroy", "test_leave_open")
    )
    assert [found[name]["lakebranch_ended"] for name in ("test_read", "test_write", "test_destroy")] == [
        "clean",
        "rewind",
        "replace",
    ]
    assert found["test_read"]["lakebranch_reason"] == "nothing was written"
    assert found["test_destroy"]["lakebranch_reason"] == "destructive"


@MODES
def test_hooks_of_branches(project: Project, workers: str) -> None:
    """ready and released are called once for each test's branch with its item, for wider branches with None."""
    project.write(
        conftest=RECORDER,
        test_it="""
        def test_own(lakebranch): ...

        def test_of_the_worker(lakebranch, lakebranch_worker): ...

        def test_run(lakebranch_run): ...
        """,
    )
    run(project, workers).assert_outcomes(passed=3)
    tests = ["test_it.py::test_of_the_worker", "test_it.py::test_own"]
    for hook in ("ready", "released"):
        assert sorted(each["test"] for each in project.records(hook=hook) if each["test"]) == tests
    ready = {each["branch"]: each for each in project.records(hook="ready")}
    released = project.records(hook="released")
    assert {each["branch"] for each in released} <= set(ready)
    assert all(each["connections"] == 0 and each["held"] >= 0 and each["reason"] for each in released)
    (child,) = [each for each in ready.values() if each["test"] == "test_it.py::test_of_the_worker"]
    assert ready[child["parent"]]["test"] is None
    wider = {each["branch"] for each in released if each["test"] is None}
    assert wider == {name for name, each in ready.items() if each["test"] is None}
    assert child["parent"] in wider


def test_hooks_of_fixtures(project: Project) -> None:
    """Branches of lakebranch_fixture and the factory are told to the hooks, with the item where they are one test's."""
    project.write(
        conftest=RECORDER
        + """
from pytest_lakebranch import lakebranch_fixture

wide, narrow = lakebranch_fixture(scope="module"), lakebranch_fixture()
""",
        test_it="def test_it(wide, narrow, lakebranch_factory):\n    lakebranch_factory()\n",
    )
    project.run().assert_outcomes(passed=1)
    for hook in ("ready", "released"):
        told = [each["test"] for each in project.records(hook=hook)]
        assert sorted(told, key=str) == [None, *["test_it.py::test_it"] * 3]


def test_branch_can_be_used_in_the_hooks(project: Project) -> None:
    """In ready the branch is at hand and what is written there is seen by the test; in released it is gone."""
    project.write(
        conftest="""
        import pytest
        from pytest_lakebranch.errors import BranchError

        def pytest_lakebranch_branch_ready(branch, item):
            with branch.connect() as conn:
                conn.execute("insert into item values (3)")

        def pytest_lakebranch_branch_released(branch, end, item):
            with pytest.raises(BranchError):
                branch.connect()
        """,
        test_it="""
        def test_it(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (3,)
        """,
    )
    project.run().assert_outcomes(passed=1)


def test_hook_that_fails(project: Project) -> None:
    """A failing ready hook fails its test only, and the branch is given back."""
    project.write(
        conftest=RECORDER.replace(
            "def pytest_lakebranch_branch_ready(branch, item):",
            """def pytest_lakebranch_branch_ready(branch, item):
    if item and item.name == "test_bad": raise RuntimeError("from the hook")""",
        ),
        test_it="""
        def test_bad(lakebranch): ...

        def test_good(lakebranch_conn):
            lakebranch_conn.execute("select * from item")
        """,
    )
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: from the hook*", "leases of tests: 2 (2 clean)"])


@MODES
def test_steps_from_the_hook(project: Project, workers: str) -> None:
    """Steps of pytest_lakebranch_steps, strings and callables, follow those of ini, outer conftest first."""
    project.write(
        second_dot_sql="insert into item values (3)",
        conftest="""
        def third(conn):
            (count,) = conn.execute("select count(*) from item").fetchone()
            conn.execute("insert into item select 10 + generate_series(1, %s)", [count])

        def pytest_lakebranch_steps(config):
            return ["sql:second.sql", third]
        """,
        test_it="""
        def test_it(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (6,)
        """,
    )
    run(project, workers).assert_outcomes(passed=1)


@MODES
def test_report_hook(project: Project, workers: str) -> None:
    """Lines of pytest_lakebranch_report are in the summary, which the hook gets, once, in the controller."""
    project.write(
        conftest="""
        def pytest_lakebranch_report(config, summary):
            assert not hasattr(config, "workerinput")
            return [f"tests with branches: {sum(lease.purpose == 'test' for lease in summary.leases)}", "second line"]
        """,
        test_it="def test_it(lakebranch): ...",
    )
    result = run(project, workers)
    result.assert_outcomes(passed=1)
    assert str(result.stdout).count("tests with branches: 1") == 1
    result.stdout.fnmatch_lines(["tests with branches: 1", "second line"])


def test_report_hooks_that_fail(project: Project) -> None:
    """One that raises, or returns no lines, is named in a line of its own; the others' lines are there."""
    project.write(
        conftest="def pytest_lakebranch_report(config): raise ValueError('not today')",
        test_it="def test_it(lakebranch): ...",
        plugin_a="def pytest_lakebranch_report(summary): return 5",
        plugin_b="def pytest_lakebranch_report(): return 'a line'",
    )
    project.ini(lakebranch_base="sql:schema.sql", pythonpath=".")
    result = project.spawn("-p", "plugin_a", "-p", "plugin_b")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "leases of tests: 1 (1 clean)",
            "a line",
            "pytest_lakebranch_report of plugin_a returned 5: it is to return a line, or a list of lines.",
            "pytest_lakebranch_report of *conftest.py raised ValueError: not today",
        ]
    )


def test_fixture_branches_are_counted(project: Project) -> None:
    """Forks, factory branches and branches of wider fixtures are in the summary beside the tests' leases."""
    project.write(
        conftest="from pytest_lakebranch import lakebranch_fixture\n\nwide = lakebranch_fixture(scope='module')",
        test_it="""
        def test_it(lakebranch, lakebranch_factory, wide):
            lakebranch_factory()
            with lakebranch.fork():
                pass
        """,
    )
    result = project.run()
    result.stdout.fnmatch_lines(["leases of tests: 1 (1 clean); 2 fixtures; 1 fork"])
