"""Whole runs on the emulator: workers, killed processes, and secrets that are nowhere to be found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import PLAIN, Project

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from emulator_rigs import Emulated, emulated
from lakebase_rigs import calls, environ, ours

SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture(scope="module")
def service() -> Iterator[Emulated]:
    """An emulator for this module."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lbe", dir=memory) as home, emulated(Path(home)) as made:
        yield made


@pytest.fixture
def cloud(service: Emulated, project: Project, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    """A project whose tests run on the emulator; its application counts rows."""
    for name, value in environ(service).items():
        monkeypatch.setenv(name, value)
    project.write(
        schema_dot_sql=SCHEMA,
        app="""
        import os, psycopg
        URL = os.environ["DATABASE_URL"]
        def count():
            with psycopg.connect(URL) as conn:
                return conn.execute("select count(*) from item").fetchone()[0]
        """,
    )
    project.ini(
        lakebranch_provider="lakebase",
        lakebranch_source=service.project,
        lakebranch_base="sql:schema.sql",
        lakebranch_database="shop",
        lakebranch_user="clerk",
        lakebranch_env="DATABASE_URL",
        pythonpath=".",
    )
    return service


def assert_nothing_left(cloud: Emulated) -> None:
    """What is being deleted is soon gone."""
    assert poll(lambda: None if ours(cloud) else True, deadline=Deadline(20)), ours(cloud)


def test_a_run_with_workers(cloud: Emulated, project: Project) -> None:
    """Every test sees the base, the application follows the tests, nothing is left, no secret is said."""
    project.write(
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
    result = project.spawn("-n", "2", "--lakebranch-report=report.json", "--lakebranch-report=report.html", "-vv")
    result.assert_outcomes(passed=9, failed=1)
    assert_nothing_left(cloud)
    secret = environ(cloud)["DATABRICKS_TOKEN"]
    said = "\n".join([*result.outlines, *result.errlines, *_texts(project)])
    for each in (secret, *_database_tokens(cloud)):
        assert each not in said


def _texts(project: Project) -> list[str]:
    """The files that the run left."""
    places = (project.path.rglob("*"), project.home.rglob("*.json*"), project.home.rglob("*.log"))
    return [path.read_text(errors="replace") for place in places for path in place if path.is_file()]


def _database_tokens(cloud: Emulated) -> list[str]:
    return list(cloud.emulator.world.tokens._database)


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


@pytest.mark.parametrize("victim", ["controller", "host"])
@pytest.mark.soak
def test_killed(cloud: Emulated, project: Project, victim: str) -> None:
    """The host deletes all when pytest is killed; when the host is, the next run or the reaper does. Processes show no
    secret."""
    project.write(
        test_it="""
        import pathlib, time

        def test_wait(lakebranch):
            pathlib.Path("started.txt").write_text("x")
            time.sleep(60)
        """,
    )
    run = project.start()
    project.wait_for("started.txt")
    hosts = [process for process in psutil.process_iter() if _is_host(process, project.home)]
    assert len(hosts) == 1
    secret = environ(cloud)["DATABRICKS_TOKEN"]
    family = [psutil.Process(run.pid), *hosts, *(child for host in hosts for child in host.children(recursive=True))]
    assert not any(secret in word for process in family for word in process.cmdline())
    assert len(ours(cloud)) >= 2
    os.kill(run.pid if victim == "controller" else hosts[0].pid, signal.SIGKILL)
    if victim == "host":
        run.kill()
        hosts[0].wait(10)
        reaped = command(project, "reap", "--provider", "lakebase")
        reaped.stdout.fnmatch_lines(["deleted projects/demo/branches/lakebranch-*"])
    run.wait()
    assert_nothing_left(cloud)
    command(project, "reap")  # the place of the application's URL, which a killed process cannot remove itself


def _is_host(process: psutil.Process, home: Path) -> bool:
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
    return "pytest_lakebranch.host" in words and any(str(home) in word for word in words)


def command(project: Project, *words: str) -> pytest.RunResult:
    """``lakebranch`` in the project's directory."""
    main = "from pytest_lakebranch.cli import main; raise SystemExit(main())"
    return project.pytester.run(sys.executable, "-c", main, *words)


def test_commands(cloud: Emulated, project: Project) -> None:
    """doctor, ls and open on the project."""
    command(project, "doctor", "--provider", "lakebase").stdout.fnmatch_lines(
        ["identity   developer@example.com", "source     projects/demo/branches/production"]
    )
    command(project, "ls", "--provider", "lakebase").stdout.fnmatch_lines(["no branches of ours"])
    failed = command(project, "open", "b1", "--provider", "lakebase")
    failed.stderr.fnmatch_lines(["lakebranch: 'b1' is no branch of ours in projects/demo: none.*"])


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


@pytest.mark.slow
@pytest.mark.skipif("SOAK_LEASES" not in os.environ, reason="takes minutes: `make soak`")
def test_the_inventory_example(cloud: Emulated, project: Project) -> None:
    """The stock application as it is, by one option, with four workers, its destructive tests among them."""
    root = cloud.emulator.world.projects["demo"].branches["production"].store.running().server
    root.control.execute('alter role "developer@example.com" superuser')  # some of its tests make superusers
    example = Path(__file__).parents[2] / "conftest_examples" / "inventory"
    options = ("--lakebranch-provider=lakebase", f"--lakebranch-source={cloud.project}", "-n", "4")
    command = [sys.executable, "-m", "pytest", "-q", *PLAIN, "-p", "no:cacheprovider", *options]
    run = subprocess.run(command, cwd=example, capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr)
    assert pytest.RunResult.parse_summary_nouns(run.stdout.splitlines()) == {"passed": 80}
    assert_nothing_left(cloud)
