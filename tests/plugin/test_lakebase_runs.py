"""Whole runs on the emulator: workers, service principals, refusals, and secrets that are nowhere to be found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lakebase_runs import (
    LINKS,
    MAIN,
    Emulated,
    assert_no_process_shows,
    assert_no_secret_in,
    assert_nothing_left,
    calls,
    environ,
    secrets_of,
)

from tests.plugin.conftest import PLAIN, Project

pytest_plugins = ["lakebase_run_fixtures"]


def test_a_run_with_workers(cloud: Emulated, project: Project, linked: Path) -> None:
    """Every test sees the base, the application follows the tests, nothing is left, no secret is said."""
    project.write(
        conftest=LINKS,
        test_it="""
        import app, pytest

        @pytest.mark.parametrize("number", range(6))
        def test_write(number, lakebranch):
            assert app.count() == 2
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
            assert app.count() == 0

        def test_roles(lakebranch_conn):
            assert lakebranch_conn.execute("select current_user, current_database()").fetchone() == ("clerk", "shop")

        @pytest.mark.lakebranch(isolation="rollback")
        def test_rollback(lakebranch_conn):
            lakebranch_conn.execute("delete from item")

        def test_fork(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item values (3)")
            with lakebranch.fork() as child, child.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (3,)

        def test_shows(lakebranch):
            print(repr(lakebranch), lakebranch.url, lakebranch.conninfo)
            assert False
        """,
    )
    result = project.spawn(
        "-n", "2", "--lakebranch-report=report.json", "--lakebranch-report=report.html", "--junitxml=j.xml", "-vv"
    )
    result.assert_outcomes(passed=9, failed=1)
    assert_nothing_left(cloud)
    assert_no_secret_in(cloud, project, linked, result)


def test_service_principals_and_refusals(
    cloud: Emulated, project: Project, linked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With client id and secret; a credential that is refused for good is said to the tests, and no secret with it."""
    machine = cloud.emulator.options.identities[1]
    monkeypatch.delenv("DATABRICKS_TOKEN")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", machine.name)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", str(machine.secret))
    project.write(
        conftest=LINKS,
        test_it="""
        import app, os, pytest
        from pathlib import Path
        from pytest_lakebranch.waiting import Deadline, poll

        def test_passes(lakebranch):
            assert app.count() == 2

        def test_waits(lakebranch):
            Path("ready.txt").write_text("x")
            assert poll(lambda: Path("go.txt").exists() or None, deadline=Deadline(60))
            with lakebranch.connect() as conn:
                conn.execute("delete from item")

        def test_is_refused(lakebranch):
            raise AssertionError("not reached")
        """,
    )
    run = project.start("-vv", "--lakebranch-deadline=3s", "--junitxml=junit.xml", "--lakebranch-report=report.json")
    refusal = {"kind": "status", "status": 403, "times": None}
    try:
        project.wait_for("ready.txt")
        assert_no_process_shows(*secrets_of(cloud))
        cloud.emulator.faults.add(
            [{"route": route, **refusal} for route in ("generate_database_credential", "create_branch")]
        )
    finally:
        (project.path / "go.txt").touch()
        run.wait()
        cloud.emulator.faults.clear()
    print(project.output)
    assert "2 passed, 1 error" in project.output
    assert "403 PERMISSION_DENIED" in project.output
    assert "Request id: " in project.output
    assert_nothing_left(cloud)
    assert_no_secret_in(cloud, project, linked)


ON_LAKEBASE = ("--lakebranch-provider=lakebase", "--lakebranch-source=projects/demo")
PAST = """
import app, pytest
from pathlib import Path
from urllib.parse import urlsplit
from pytest_lakebranch.waiting import Deadline, poll

@pytest.mark.lakebranch(at="{time}")
def test_of_a_time(lakebranch):
    assert app.count() == 10

@pytest.mark.lakebranch(at="{lsn}")
def test_of_a_position(lakebranch):
    assert app.count() == 10
    with lakebranch.connect() as conn:
        conn.execute("delete from item")
    assert app.count() == 0

def test_of_the_present(lakebranch):
    assert app.count() == 11
    assert urlsplit(app.URL).hostname == "127.0.0.1"
    Path("password.txt").write_text(urlsplit(app.URL).password)
    assert poll(lambda: Path("go.txt").exists() or None, deadline=Deadline(60))

def test_fails(lakebranch):
    app.count()
    print(repr(lakebranch))
    assert False
"""


def test_the_past_and_a_port(cloud: Emulated, project: Project, linked: Path) -> None:
    """at= takes the source as it was, by time and by position; the application comes by a port, whose password is
    neither said nor shown.
    """
    project.ini(
        lakebranch_provider="lakebase",
        lakebranch_source=cloud.project,
        lakebranch_env="DATABASE_URL",
        lakebranch_listen="tcp",
        pythonpath=".",
    )
    then = cloud.control("POST", "remember", {"branch": cloud.production}).json()
    project.write(conftest=LINKS, test_it=PAST.format(**then))
    with cloud.connect(cloud.production) as production:
        production.execute("insert into item values (500)")
        run = project.start("-vv", "--junitxml=junit.xml", "--lakebranch-report=report.json")
        try:
            password = project.wait_for("password.txt")
            (project.path / "password.txt").unlink()
            assert_no_process_shows(password, *secrets_of(cloud))
        finally:
            (project.path / "go.txt").touch()
            run.wait()
            production.execute("delete from item where id = 500")
    assert "1 failed, 3 passed" in project.output
    assert_nothing_left(cloud)
    assert_no_secret_in(cloud, project, linked, planted=[password])


def test_a_step_that_fails_says_no_password(cloud: Emulated, project: Project) -> None:
    """That of its statement; the rest of it is said, once."""
    project.write(
        schema_dot_sql="create table item (id int);\ncreate role robot login password 'planted-in-a-step';",
        test_it="""
        def test_one(lakebranch): ...
        def test_two(lakebranch): ...
        """,
    )
    result = project.spawn("-vv", "--junitxml=junit.xml", "--lakebranch-report=report.json")
    result.assert_outcomes(errors=2)
    said = [path.read_text() for path in (project.path / "junit.xml", project.path / "report.json")]
    assert not any("planted" in text for text in (*said, *result.outlines, *result.errlines))
    result.stdout.fnmatch_lines(["*schema.sql*", "*permission denied to create role*"])
    assert_nothing_left(cloud)


WRONG = {
    "DATABRICKS_HOST": ("https://workspace.invalid", "asking who we are: https://workspace.invalid *DATABRICKS_HOST*"),
    "DATABRICKS_TOKEN": ("dapi-wrong", "asking who we are: 401 UNAUTHENTICATED: *. Request id: *DATABRICKS_TOKEN*"),
    "LAKEBRANCH_SOURCE": ("projects/none", "reading projects/none: 404 NOT_FOUND: *Request id: *lakebranch_source*"),
}


@pytest.mark.parametrize("variable", WRONG)
def test_wrong_settings_are_one_message(
    cloud: Emulated, project: Project, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """For the first test, with what to do, and what the service answered if it did; the others refer to it."""
    value, says = WRONG[variable]
    monkeypatch.setenv(variable, value)
    project.write(
        test_it="""
        def test_one(lakebranch): ...
        def test_two(lakebranch): ...
        """,
    )
    result = project.spawn()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([says])
    assert len([line for line in result.outlines if line.startswith(says[:20])]) == 1
    result.stdout.fnmatch_lines(["there is no branch, as said before: *"])


@pytest.mark.soak
def test_only_reading_makes_a_branch_for_each_worker(cloud: Emulated, project: Project) -> None:
    """And a template for all."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_read(number, lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
        """,
    )
    before = calls(cloud).count("create_branch")
    project.spawn("-n", "2").assert_outcomes(passed=8)
    assert calls(cloud).count("create_branch") - before <= 3
    assert_nothing_left(cloud)


def test_missing_credentials_are_an_error_before_the_first_test(
    cloud: Emulated, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a skip; one message."""
    for name in environ(cloud):
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(project.path / "none"))
    project.write(test_it="def test_it(lakebranch): ...")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: lakebranch: *no*DATABRICKS_HOST*"])


INVENTORY = {
    "a part": (("tests/test_disaster.py", "-k", "drop_what and 1"), {"passed": 1, "deselected": 7}),
    "all of it": (("-n", "4"), {"passed": 78, "skipped": 2}),
}
"""Options, and what comes of it; skipped are those that kill a server, which only a local one's client can."""


@pytest.mark.parametrize("part", ["a part", pytest.param("all of it", marks=(pytest.mark.slow, pytest.mark.soak))])
def test_the_inventory_example(part: str) -> None:
    """The stock application as it is, by one option, on `lakebranch serve`, its destructive tests among them."""
    options, outcomes = INVENTORY[part]
    example = Path(__file__).parents[2] / "conftest_examples" / "inventory"
    tests = (sys.executable, "-m", "pytest", "-q", *PLAIN, "-p", "no:cacheprovider", *options)
    command = (sys.executable, "-c", MAIN, "serve", "--", *tests, *ON_LAKEBASE)
    run = subprocess.run(command, cwd=example, capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr)
    assert pytest.RunResult.parse_summary_nouns(run.stdout.splitlines()) == outcomes
    assert "left behind" not in run.stdout
