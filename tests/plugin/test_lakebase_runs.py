"""Whole runs on the emulator: workers, killed processes, and secrets that are nowhere to be found."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pytest_lakebranch.emulator.sql import run as run_sql
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


LINKS = """
import contextlib, os, pathlib, pytest

@pytest.fixture(autouse=True)
def linked():
    yield
    home = pathlib.Path(os.environ["LAKEBRANCH_HOME"])
    for path in home.glob("runs/*/*"):
        with contextlib.suppress(FileExistsError):
            if path.is_file():
                os.link(path, home / "linked" / f"{path.parent.name}-{path.name}")
"""
"""A conftest.py that has the files of a run's directory outlive it: what is written to them later is seen, too."""


@pytest.fixture
def linked(project: Project) -> Iterator[Path]:
    """Where LINKS puts them."""
    directory = project.home / "linked"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


def assert_nothing_left(cloud: Emulated) -> None:
    """What is being deleted is soon gone."""
    assert poll(lambda: None if ours(cloud) else True, deadline=Deadline(20)), ours(cloud)


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
    result = project.spawn("-n", "2", "--lakebranch-report=report.json", "--lakebranch-report=report.html", "-vv")
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
    run = project.start("-vv", "--lakebranch-deadline=3s")
    project.wait_for("ready.txt")
    refusal = {"kind": "status", "status": 403, "times": None}
    cloud.emulator.faults.add(
        [{"route": route, **refusal} for route in ("generate_database_credential", "create_branch")]
    )
    (project.path / "go.txt").touch()
    try:
        run.wait()
    finally:
        cloud.emulator.faults.clear()
    print(project.output)
    assert "2 passed, 1 error" in project.output
    assert "403 PERMISSION_DENIED" in project.output
    assert "Request id: " in project.output
    assert_nothing_left(cloud)
    assert_no_secret_in(cloud, project, linked)


def assert_no_secret_in(
    cloud: Emulated, project: Project, linked: Path, result: pytest.RunResult | None = None
) -> None:
    """Neither in what the run said, nor in the files that it left, nor in those of its directory, which is gone."""
    names = {path.name.partition("-")[2]: path for path in linked.iterdir()}
    assert {"host.log", "ledger.jsonl", "run.json"} <= set(names), names
    assert names["ledger.jsonl"].stat().st_size
    files = [path for place in (project.path, project.home) for path in place.rglob("*") if path.is_file()]
    said = [path.read_text(errors="replace") for path in files if "layers" not in path.parts]
    said += [] if result is None else [*result.outlines, *result.errlines]
    tokens = cloud.emulator.world.tokens
    known = [secret for each in tokens.identities for secret in (each.token, each.secret) if secret]
    for secret in (*known, *tokens._database, *tokens._access):
        assert not any(secret in text for text in said)


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


@pytest.mark.soak
def test_a_worker_is_killed(cloud: Emulated, project: Project) -> None:
    """Its test fails, the others pass on branches of their own, and nothing of its branch is left."""
    project.write(
        test_it="""
        import app, os, pathlib, pytest, time

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, lakebranch):
            assert app.count() == 2
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
            if number == 0:
                pathlib.Path("started.txt").write_text(str(os.getpid()))
                time.sleep(60)
        """,
    )
    run = project.start("-n", "2")
    os.kill(int(project.wait_for("started.txt")), signal.SIGKILL)
    run.wait()
    assert "1 failed, 3 passed" in project.output
    assert "crashed while running" in project.output
    assert_nothing_left(cloud)


def test_the_branch_of_a_failed_test_is_kept(cloud: Emulated, project: Project) -> None:
    """As the test left it, with a time to go; `lakebranch ls` and `open` know it."""
    project.ini(lakebranch_provider="lakebase", lakebranch_source=cloud.project)
    project.write(
        test_it="""
        def test_fails(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item values (11)")
            assert not "reached"

        def test_passes(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
        """,
    )
    result = project.spawn("--lakebranch-keep=failed")
    result.assert_outcomes(passed=1, failed=1)
    try:
        assert poll(lambda: True if len(ours(cloud)) == 1 else None, deadline=Deadline(20)), ours(cloud)
        listed = command(project, "ls", "--provider", "lakebase", "--json")
        (found,) = json.loads("\n".join(listed.outlines))["branches"]
        result.stdout.fnmatch_lines([f"*lakebranch open {found['tag']} --provider lakebase*"])
        assert found["expires"]
        words = ("open", "--provider", "lakebase", found["tag"], "--", "-tAc", "select count(*) from item")
        command(project, *words).stdout.fnmatch_lines(["11"])
    finally:
        cloud.clear()


@pytest.mark.parametrize("keep_template", [False, True], ids=["its own template", "a kept template"])
@pytest.mark.soak
def test_branches_of_a_template_are_kept(cloud: Emulated, project: Project, keep_template: bool) -> None:
    """With what they come from, also where they were forked; the run ends, and another one keeps more of them."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_fails(number, lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item values (11)")
            with lakebranch.fork() as child, child.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (4,)

        def test_fails_on_a_fork(lakebranch_worker, lakebranch):
            assert not "reached"

        def test_passes(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
        """,
    )
    if keep_template:
        text = (project.path / "pytest.ini").read_text()
        (project.path / "pytest.ini").write_text(f"{text}lakebranch_keep_template = true\n")
    try:
        for number in (1, 2):
            result = project.spawn("-n", "2", "--lakebranch-keep=failed")
            result.assert_outcomes(passed=1, failed=3)
            for word in ("could not be kept", "left behind"):
                result.stdout.no_fnmatch_line(f"*{word}*")
            assert poll(lambda: True if is_kept_alone(cloud, number) else None, deadline=Deadline(20)), ours(cloud)  # noqa: B023
            templates = [name for name in ours(cloud) if "-t" in name]
            assert len(templates) == (1 if keep_template else number)
        assert command(project, "ls", "--provider", "lakebase").ret == 0
    finally:
        cloud.clear()


def is_kept_alone(cloud: Emulated, runs: int) -> bool:
    """Whether there are the three branches that each run has kept, and else only what they come from.

    One of the three may be what another was forked from, when it had been the worker's before: then it cannot expire.
    """
    with cloud.emulator.world.lock:
        branches = list(cloud.emulator.world.projects["demo"].branches.values())
    parents = {each.origin.branch for each in branches}
    kept = [each for each in branches if each.expires is not None]
    others = [each for each in branches if each.expires is None and not each.is_default]
    return 2 * runs <= len(kept) <= 3 * runs and all(each.name in parents for each in others)


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
    run_sql(root, "alter role {} superuser", "developer@example.com")  # some of its tests make superusers
    example = Path(__file__).parents[2] / "conftest_examples" / "inventory"
    options = ("--lakebranch-provider=lakebase", f"--lakebranch-source={cloud.project}", "-n", "4")
    command = [sys.executable, "-m", "pytest", "-q", *PLAIN, "-p", "no:cacheprovider", *options]
    run = subprocess.run(command, cwd=example, capture_output=True, text=True, check=False)
    print(run.stdout, run.stderr)
    assert pytest.RunResult.parse_summary_nouns(run.stdout.splitlines()) == {"passed": 80}
    assert_nothing_left(cloud)
