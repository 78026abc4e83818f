"""The application's URL: constant, set before the application is imported, and leading to the running test."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

pytest_plugins = ["url_fixtures"]
pytestmark = pytest.mark.usefixtures("application")


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_constant_and_leading_to_the_running_test(project: Project, options: tuple[str, ...]) -> None:
    """The application, imported by conftest.py, finds the running test's branch each time, under one URL."""
    project.write(
        conftest="import app\n\nSEEN = app.URL",
        test_it="""
        import os, app, pytest
        from conftest import SEEN

        @pytest.mark.parametrize("number", range(4))
        def test_write(number, lakebranch):
            assert SEEN == os.environ["DATABASE_URL"]
            assert app.count() == 2
            app.clear()
            with lakebranch.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (0,)

        def test_forks_and_factories_do_not_move_it(lakebranch, lakebranch_factory):
            other = lakebranch_factory()
            app.clear()
            with lakebranch.fork() as child, other.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (2,)
                assert app.count() == 0
                app.connect().close()
            assert app.count() == 0

        def test_reset_leaves_it(lakebranch):
            app.clear()
            lakebranch.reset()
            assert app.count() == 2

        def test_factory_alone(lakebranch_factory):
            with lakebranch_factory().connect() as conn:
                conn.execute("delete from item")
            assert app.count() == 2
        """,
    )
    run = project.spawn if options else project.run
    run(*options).assert_outcomes(passed=7)


def test_from_the_command_line_with_workers(project: Project) -> None:
    """--lakebranch-env given as an option reaches workers in time, too."""
    project.ini(lakebranch_base="sql:schema.sql", pythonpath=".")
    project.write(
        conftest="import app",
        test_it="import app\n\ndef test_it(lakebranch):\n    assert app.count() == 2",
    )
    project.spawn("-n", "2", "--lakebranch-env", "DATABASE_URL").assert_outcomes(passed=1)


AROUND = """
import app, psycopg, pytest

REFUSED = "no test with a branch is running(.|\\n)*Ask for the fixture lakebranch"

@pytest.fixture(scope="module")
def early():
    with pytest.raises(psycopg.OperationalError, match=REFUSED) as caught:
        app.count()
    assert "FATAL" in str(caught.value)

def test_without_a_lease(early):
    with pytest.raises(psycopg.OperationalError, match=REFUSED):
        app.count()

class TestRun:
    @pytest.fixture(scope="class")
    def by_run(self, lakebranch_run):
        app.clear()

    def test_it(self, by_run, lakebranch_run):
        assert app.count() == 0

    def test_own(self, lakebranch):
        assert app.count() == 2

@pytest.fixture
def asked(request):
    request.getfixturevalue("lakebranch_worker")

@pytest.fixture
def late(asked):
    return app.count()

class TestWorker:
    @pytest.fixture(scope="class")
    def by_worker(self, lakebranch_worker):
        assert app.count() == 2
        app.clear()
        yield
        assert app.count() == 0

    def test_it(self, by_worker):
        assert app.count() == 0

    def test_own(self, by_worker, lakebranch):
        assert app.count() == 0
        with app.connect() as conn:
            conn.execute("insert into item values (3)")

    def test_base(self, lakebranch):
        assert app.count() == 2

    def test_unleased(self):
        with pytest.raises(psycopg.OperationalError, match=REFUSED):
            app.count()

    @pytest.mark.parametrize("number", range(2))
    def test_asks_late(self, late, number):
        assert app.count() == 0

    def test_around_again(self, by_worker):
        assert app.count() == 0
"""


def test_around_tests(project: Project) -> None:
    """Around tests the URL leads to lakebranch_worker, else to lakebranch_run, else it refuses with a reason; in a
    test that has no branch it refuses also where a shared one is open.
    """
    project.write(test_it=AROUND)
    project.run().assert_outcomes(passed=10)


def test_what_a_test_names_counts(project: Project) -> None:
    """A test that names lakebranch_run only is led there, also where an earlier test has opened the worker's branch."""
    project.write(
        test_it="""
        import app, pytest

        def test_opens(lakebranch_worker):
            app.clear()

        def test_of_the_run(lakebranch_run):
            assert app.count() == 2

        @pytest.fixture
        def late(request):
            return request.getfixturevalue("lakebranch_run")

        @pytest.fixture
        def seen(late):
            return app.count()

        def test_asks_late(seen):
            assert seen == app.count() == 2

        def test_both(lakebranch_run, lakebranch_worker):
            assert app.count() == 0

        @pytest.fixture(scope="module", autouse=True)
        def wider():
            yield
            assert app.count() == 0
        """
    )
    project.run().assert_outcomes(passed=4)


def test_stale_psycopg_connection_is_ended(project: Project) -> None:
    """A connection that the application kept is dead in the next test, so it cannot read another test's data."""
    project.write(
        test_it="""
        import app, psycopg, pytest

        KEPT = []

        @pytest.mark.lakebranch
        def test_keep():
            KEPT.append(app.connect())

        @pytest.mark.lakebranch
        def test_next():
            with pytest.raises(psycopg.OperationalError):
                KEPT[0].execute("select 1")
            assert app.count() == 2
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["connections left open by tests, and ended: 1 (test_it.py::test_keep)"])


@pytest.mark.parametrize("options", [("--no-such-option",), ("--help",), ("--version",), ("--fixtures",), ("--co",)])
def test_nothing_stays_of_runs_without_tests(project: Project, options: tuple[str, ...]) -> None:
    """A run that ends before its first test leaves no socket directory (checked after each test of this folder)."""
    project.write(test_it="def test_it(): ...")
    project.spawn(*options)


def test_conftest_that_cannot_be_imported(project: Project) -> None:
    """The place of the application's URL is removed also when conftest.py fails."""
    project.write(conftest="import nothing_of_this_name", test_it="def test_it(): ...")
    assert project.spawn().ret == pytest.ExitCode.USAGE_ERROR


BY_A_PORT = """
import os, app, psycopg, pytest
from conftest import SEEN

@pytest.fixture(scope="module")
def open_connection():
    with app.connect() as conn:
        yield conn

@pytest.mark.parametrize("number", range(4))
def test_write(number, lakebranch):
    assert SEEN == os.environ["DATABASE_URL"]
    assert f":{os.environ['PW']}@127.0.0.1:{os.environ['PORT']}/" in SEEN
    assert app.count() == 2
    app.clear()
    with lakebranch.connect() as conn:
        assert conn.execute("select count(*) from item").fetchone() == (0,)

def test_cancel(lakebranch):
    import threading
    with app.connect() as conn:
        threading.Timer(0.2, conn.cancel).start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("select pg_sleep(60)")

def test_without_password(lakebranch):
    with pytest.raises(psycopg.OperationalError, match="wrong password"):
        psycopg.connect(app.URL, password="guess")

@pytest.mark.lakebranch(isolation="worker")
def test_worker():
    global LEFT
    LEFT = app.connect()
    LEFT.execute("select 1")

def test_left_open_is_ended(lakebranch):
    with pytest.raises(psycopg.OperationalError):
        LEFT.execute("select 1")
    LEFT.close()
"""


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_by_a_port(project: Project, options: tuple[str, ...]) -> None:
    """With lakebranch_listen=tcp the URL leads to a loopback port, wants a password, and is constant all the same."""
    project.ini(
        lakebranch_base="sql:schema.sql",
        lakebranch_env=["DATABASE_URL", "PW={password}", "PORT={port}"],
        lakebranch_listen="tcp",
        pythonpath=".",
    )
    project.write(
        conftest="import app\n\nSEEN = app.URL",
        test_it=BY_A_PORT,
    )
    project.run(*options, "--dist=loadfile" if options else "-q").assert_outcomes(passed=8)
