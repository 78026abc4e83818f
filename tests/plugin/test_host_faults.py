"""The host or the controller is killed: everything is gone soon after, and tests get a message."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import SOON, Project, entries, left_behind, processes

SCHEMA = "create table item (id int); insert into item values (1), (2);"
LONG = """
import pathlib, pytest

@pytest.mark.parametrize("number", range(3))
def test_it(lakebranch_conn, number):
    with pathlib.Path("running").open("a") as stream:
        stream.write("yes\\n")
    lakebranch_conn.execute("select pg_sleep(100)")
"""


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql=SCHEMA)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")


def host_of(project: Project) -> psutil.Process:
    """The one host that works for this test's state directory."""
    (line,) = [line for line in processes(project.home) if "-m pytest_lakebranch.host" in line]
    return psutil.Process(int(line.split()[0]))


@pytest.mark.parametrize(
    ("workers", "number"),
    [
        ("0", signal.SIGKILL),
        ("2", signal.SIGKILL),
        ("2", signal.SIGTERM),
        pytest.param("2", signal.SIGINT, marks=pytest.mark.soak),
        pytest.param("0", signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param("0", signal.SIGINT, marks=pytest.mark.soak),
    ],
)
def test_controller_killed(project: Project, sockets: object, workers: str, number: signal.Signals) -> None:
    """After the controller's end by a signal, host, servers and run directory go; the next run clears the rest."""
    project.write(test_it=LONG)
    run = project.start("-n", workers)
    project.wait_for("running")
    run.send_signal(number)
    run.wait(timeout=30)
    assert "INTERNALERROR" not in project.output
    gone = poll(lambda: None if processes(project.home) else True, deadline=Deadline(SOON))
    assert gone, processes(project.home)
    assert poll(lambda: None if entries(project.home / "runs") else True, deadline=Deadline(SOON))
    project.write(test_it="def test_it(lakebranch): ...")
    project.spawn("-n", "0").assert_outcomes(passed=1)


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.soak), "2"])
def test_host_killed(project: Project, workers: str) -> None:
    """After kill -9 of the host the tests fail with a message, the run ends, and the next run clears what was left."""
    project.write(
        test_it="""
        import pathlib, pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(lakebranch_conn, lakebranch_worker, number):
            with pathlib.Path("running").open("a") as stream:
                stream.write("yes\\n")
            if number == 0:
                lakebranch_conn.execute("select pg_sleep(100)")
        """
    )
    run = project.start("-n", workers)
    project.wait_for("running")
    os.kill(host_of(project).pid, signal.SIGKILL)
    assert run.wait(timeout=60) == pytest.ExitCode.TESTS_FAILED, project.output
    assert "the host of this run is gone" in project.output
    for text in ("INTERNALERROR", "pytest_lakebranch/"):
        assert text not in project.output, project.output
    assert poll(lambda: None if processes(project.home) else True, deadline=Deadline(SOON)), processes(project.home)
    project.write(test_it="def test_it(lakebranch): ...")
    project.spawn().assert_outcomes(passed=1)


QUIET = (
    "import os, signal, sys; [signal.signal(n, signal.SIG_IGN) for n in (3, 20)]; os.execv(sys.argv[1], sys.argv[1:])"
)


def test_started_by_who_ignores_the_signal_of_its_death(project: Project) -> None:
    """As a shell has it in the background: a server that is just being started would not notice its host's end."""
    project.write(
        test_it="""
        import pathlib, psutil, signal

        def test_it(lakebranch_conn):
            host = psutil.Process(lakebranch_conn.info.backend_pid).parent().ppid()
            lines = pathlib.Path(f"/proc/{host}/status").read_text().splitlines()
            ignored = int(next(line for line in lines if line.startswith("SigIgn")).split()[1], 16)
            for number in (signal.SIGQUIT, signal.SIGTSTP):
                assert not ignored >> (number - 1) & 1
        """
    )
    run = project.start(before=[sys.executable, "-c", QUIET])
    assert run.wait(timeout=60) == 0, project.output


def test_without_a_branch_nobody_needs_the_host(project: Project) -> None:
    """A test that uses no branch passes whatever became of the host, also where its URL is led away from one."""
    project.write(
        test_it="""
        import os, psutil, signal

        def test_opens(lakebranch_worker):
            with lakebranch_worker.connect() as conn:
                server = psutil.Process(conn.info.backend_pid).parent()
            os.kill(server.ppid(), signal.SIGKILL)

        def test_without(): ...
        """
    )
    result = project.spawn()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_it.py::test_opens*", "*2 passed, 1 error*"])
    project.write(test_it="def test_it(lakebranch): ...")
    project.spawn().assert_outcomes(passed=1)  # it clears what the first has left


def test_host_ended_politely(project: Project) -> None:
    """SIGTERM to the host has the same effect, and nothing is left even before the next run."""
    project.write(test_it=LONG)
    run = project.start()
    project.wait_for("running")
    host_of(project).terminate()
    assert run.wait(timeout=60) == pytest.ExitCode.TESTS_FAILED, project.output
    assert "the host of this run is gone" in project.output
    assert "INTERNALERROR" not in project.output


def test_forked_child_does_not_end_the_run(project: Project, sockets: object) -> None:
    """A child that a test forks, and that outlives the run, keeps nothing of it alive."""
    project.write(
        test_it="""
        import os, pathlib, time

        def test_fork(lakebranch_conn, lakebranch):
            pid = os.fork()
            if not pid:
                try:
                    for descriptor in (0, 1, 2):
                        os.close(descriptor)
                    time.sleep(60)
                finally:
                    os._exit(0)
            pathlib.Path("child").write_text(str(pid))

        def test_next(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
        """
    )
    assert isinstance(sockets, Path)
    result = project.spawn("-W", "ignore::DeprecationWarning")
    child = int((project.path / "child").read_text())
    try:
        gone = poll(lambda: None if left_behind(project.home, sockets) else True, deadline=Deadline(SOON))
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)
    assert gone
    result.assert_outcomes(passed=2)


def test_a_test_that_leaves_without_a_word(project: Project) -> None:
    """``os._exit`` in a test: it fails as a worker's crash does, and the tests that follow have sound branches."""
    project.write(
        test_it="""
        import os

        def count(conn):
            return conn.execute("select count(*) from item").fetchone()

        def test_exit(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
            os._exit(0)

        def test_next(lakebranch_conn, lakebranch_worker):
            assert count(lakebranch_conn) == (2,)
            with lakebranch_worker.connect() as conn:
                assert count(conn) == (2,)
        """
    )
    result = project.spawn("-n", "1")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running 'test_it.py::test_exit'*"])
    assert "INTERNALERROR" not in str(result.stdout)


def test_full_clean_up_is_what_is_checked(project: Project, sockets: object) -> None:
    """The check after each test of this folder sees a running host, its directory and its sockets."""
    assert isinstance(sockets, Path)
    project.write(test_it=LONG)
    run = project.start()
    project.wait_for("running")
    seen = left_behind(project.home, sockets)
    run.send_signal(signal.SIGINT)
    run.wait(timeout=60)
    assert any("pytest_lakebranch.host" in each for each in seen)
    assert any("postgres" in each for each in seen)
    assert entries(project.home / "runs") == []
    assert len(seen) >= 5
