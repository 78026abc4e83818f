"""Defects that a review has found: each would come back unnoticed without its test."""

from __future__ import annotations

import os

import pytest

from tests.plugin.conftest import Project


def test_runs_never_meet_whatever_their_xdist_id(project: Project) -> None:
    """xdist's run id, which a user can choose freely, is no part of any name of ours."""
    project.write(test_it="def test_it(lakebranch): ...")
    project.spawn("-n", "1", "--testrunuid", "../../build/of-november").assert_outcomes(passed=1)


def test_parameters_do_not_lend_each_other_their_marks(project: Project) -> None:
    """A mark on one set of parameters gives a lease to that one only, in either order."""
    project.ini(lakebranch_env="DATABASE_URL")
    project.write(
        test_it="""
        import os, psycopg, pytest

        MARKED = pytest.param("marked", marks=pytest.mark.lakebranch)

        @pytest.mark.parametrize("what", [MARKED, "bare"])
        def test_one(what):
            connect(what)

        @pytest.mark.parametrize("what", ["bare", MARKED])
        def test_other(what):
            connect(what)

        def connect(what):
            if what == "marked":
                psycopg.connect(os.environ["DATABASE_URL"]).close()
            else:
                with pytest.raises(psycopg.OperationalError, match="no test with a branch"):
                    psycopg.connect(os.environ["DATABASE_URL"])
        """
    )
    project.run().assert_outcomes(passed=4)


def test_once_knows_functions_apart(project: Project) -> None:
    """Two lambdas of one function are two pieces of work; what has no place in a file is refused."""
    project.write(
        test_it="""
        import functools, pytest
        from pytest_lakebranch.errors import ConfigError

        def test_it(lakebranch_run):
            done = []
            lakebranch_run.once(lambda branch: done.append(1))
            lakebranch_run.once(lambda branch: done.append(2))
            assert done == [1, 2]
            for _ in range(2):
                lakebranch_run.once(work)
            assert calls == 1
            with pytest.raises(ConfigError, match="once"):
                lakebranch_run.once(functools.partial(print))

        calls = 0

        def work(branch):
            global calls
            calls += 1
        """
    )
    project.run().assert_outcomes(passed=1)


def test_threads_of_one_worker(project: Project) -> None:
    """They wait for each other where one does work once, or builds a base; work that waits for itself is refused."""
    project.write(
        test_it="""
        import threading, pytest
        from concurrent.futures import ThreadPoolExecutor
        from pytest_lakebranch.errors import BranchError
        from pytest_lakebranch.run import run_of

        def at_once(work):
            with ThreadPoolExecutor(2) as threads:
                return [each.result(60) for each in [threads.submit(work), threads.submit(work)]]

        def fill(branch):
            with pytest.raises(BranchError, match="once.. was called for fill while that runs"):
                branch.once(fill)
            with branch.fork() as child, child.connect():
                filled.append(threading.get_ident())

        filled = []

        def test_once(lakebranch_run):
            at_once(lambda: lakebranch_run.once(fill))
            assert len(filled) == 1

        def step(conn):
            conn.execute("create table built (id int)")

        def test_base(request):
            first, second = at_once(lambda: run_of(request.config).base([step]))
            assert first == second
        """
    )
    project.spawn().assert_outcomes(passed=2)


def test_django_that_is_loaded_and_not_configured(project: Project) -> None:
    """A library may import Django in a project that is not one of Django's."""
    project.write(test_it="import django.db\n\ndef test_it(lakebranch_conn): ...\n\ndef test_next(lakebranch): ...")
    result = project.spawn()
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*Traceback*")


def test_why_a_base_could_not_be_sealed(project: Project) -> None:
    """What goes wrong after the last step is told as it is."""
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_user="shop")
    project.write(schema_dot_sql="alter role shop nologin;", test_it="def test_it(lakebranch): ...")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*shop*"])
    result.stdout.no_fnmatch_line("*is void*")


def test_a_catalog_that_a_test_left_locked(project: Project) -> None:
    """The connection with the lock is ended like any other, and the next test begins."""
    project.write(
        test_it="""
        left = []

        def test_lock(lakebranch):
            left.append(lakebranch.connect())
            for catalog in ("pg_database", "pg_authid", "pg_class"):
                left[0].execute(f"lock table {catalog} in access exclusive mode")

        def test_next(lakebranch_conn):
            assert lakebranch_conn.execute("select 1").fetchone() == (1,)
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["connections left open by tests, and ended: 1*"])


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user needs no user namespace")
def test_every_worker_is_told_why_there_is_no_host(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lacks something lacks it for all workers: each says so, none shows how it failed in us."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("LAKEBRANCH_HOME")  # without any setting of ours, the workers are the first to find out
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.path / "cache"))
    project.write(test_it="import pytest\n\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n, lakebranch): ...")
    result = project.spawn("-n", "4")
    result.assert_outcomes(errors=8)
    assert str(result.stdout).count("no user namespace can be made without the program unshare") >= 4
    for text in ("INTERNALERROR", "Traceback", "pytest_lakebranch/", "spawn.lock"):
        result.stdout.no_fnmatch_line(f"*{text}*")


INTERRUPTED = """
import signal, pytest
from pytest_lakebranch.host import wire

@pytest.fixture
def limit(monkeypatch):
    '''Raises out of a signal handler while the answer to the next call is awaited.'''
    def handler(*_):
        raise pytest.fail.Exception("too slow")

    def receive(stream, original=wire.receive):
        monkeypatch.setattr(wire, "receive", original)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    monkeypatch.setattr(wire, "receive", receive)
    yield
    signal.signal(signal.SIGUSR1, before)

def test_first(lakebranch): ...

@pytest.mark.parametrize("turn", range(3))
def test_limited(limit, lakebranch_factory, turn):
    lakebranch_factory()

def test_next(lakebranch_conn):
    assert lakebranch_conn.execute("select * from item").fetchall() == []

def fill(branch):
    with branch.connect() as conn:
        conn.execute("insert into item values (1)")

def test_limited_while_it_waits_for_work_of_others(lakebranch_run, limit):
    lakebranch_run.once(fill)

def test_work_of_others(lakebranch_run):
    lakebranch_run.once(fill)
    with lakebranch_run.connect() as conn:
        assert conn.execute("select * from item").fetchall() == [(1,)]
"""


def test_a_call_that_a_signal_handler_interrupts(project: Project) -> None:
    """A time limit that raises while a test waits for its branch costs that test only; the ticket goes on."""
    project.ini(lakebranch_base="python:seed:load", pythonpath=".")
    project.write(
        seed="""
        import os, pathlib

        def load(conn):
            conn.execute("create table item (id int)")
        """,
        test_it=INTERRUPTED,
    )
    result = project.spawn()
    assert result.parseoutcomes()["passed"] == 3
    result.stdout.fnmatch_lines(["*too slow*"])
    result.stdout.no_fnmatch_line("*is gone*")


def test_a_host_that_nobody_asked_ends(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something was prepared for asking it, and the run is over at any moment of the host's start."""
    project.ini(lakebranch_base="sql:schema.sql")
    project.write(
        schema_dot_sql="create table t (x int);",
        conftest="""
        import os, time, pytest
        from pytest_lakebranch.run import run_of

        def pytest_collection(session):
            run_of(session.config)
            time.sleep(float(os.environ["LATER"]))
            raise pytest.UsageError("not today")
        """,
    )
    for later in range(8):
        monkeypatch.setenv("LATER", str(later * 0.05))
        result = project.run()
        result.stderr.fnmatch_lines(["*not today*"])
        result.stdout.no_fnmatch_line("*was killed*")
