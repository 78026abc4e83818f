"""pytest's own options, other plugins, and interrupted runs."""

from __future__ import annotations

import signal

import pytest

from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import RECORDER, SOON, Project, entries, without_others

SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql=SCHEMA)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")


FAILING = """
import pytest

@pytest.mark.parametrize("number", range(6))
def test_it(lakebranch_conn, number):
    assert lakebranch_conn.execute("delete from item").rowcount == 2
    lakebranch_conn.commit()
    assert number not in (1, 2)
"""


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        ("-x", {"passed": 1, "failed": 1}),
        ("--maxfail=2", {"passed": 1, "failed": 2}),
        ("-p no:xdist -p no:xdist.looponfail", {"passed": 4, "failed": 2}),
        ("-n 0", {"passed": 4, "failed": 2}),
        ("--capture=no -v", {"passed": 4, "failed": 2}),
    ],
)
def test_ends_of_runs(project: Project, options: str, outcomes: dict[str, int]) -> None:
    """Runs that stop early or go without xdist give the expected outcomes and the summary."""
    project.write(test_it=FAILING)
    result = project.run(*options.split())
    result.assert_outcomes(**outcomes)
    result.stdout.fnmatch_lines([f"leases of tests: {sum(outcomes.values())} (*)"])


def test_maxfail_with_workers(project: Project) -> None:
    """-x ends a run with workers in the same way."""
    project.write(test_it=FAILING)
    result = project.spawn("-n", "2", "-x")
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    result.stdout.fnmatch_lines(["leases of tests: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_last_failed(project: Project) -> None:
    """--lf runs the failed tests again, from the base."""
    project.write(test_it=FAILING)
    project.run().assert_outcomes(passed=4, failed=2)
    result = project.run("--lf")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["leases of tests: 2 (2 rewind)"])


def test_without_the_plugin(project: Project) -> None:
    """-p no:lakebranch leaves nothing of us: no fixture, no variable, no header."""
    project.pytester.makeini("[pytest]")
    project.write(
        conftest=RECORDER,
        test_it="""
        import os

        def test_plain():
            assert "DATABASE_URL" not in os.environ

        def test_fixture(lakebranch): ...
        """,
    )
    result = project.spawn("-p", "no:lakebranch")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'lakebranch' not found"])


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures", "--fixtures-per-test", "--markers"])
def test_looking_starts_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, option: str
) -> None:
    """Options that run no test start no host and make no state directory."""
    home = tmp_path_factory.mktemp("home") / "state"
    monkeypatch.setenv("LAKEBRANCH_HOME", str(home))
    project.write(
        test_it="""
        import pytest

        @pytest.fixture(scope="session")
        def seed(lakebranch_worker): ...

        @pytest.mark.lakebranch
        def test_marked(seed): ...

        @pytest.mark.destructive
        def test_it(lakebranch_conn, lakebranch_factory, lakebranch_run): ...
        """
    )
    result = project.run(option)
    assert result.ret == pytest.ExitCode.OK
    assert not home.exists()
    result.stdout.no_fnmatch_line("*leases of tests*")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_interrupt(project: Project, workers: str) -> None:
    """Ctrl-C ends the run as pytest does, with the summary, and leaves nothing."""
    project.write(
        test_it="""
        import pathlib, time, pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(lakebranch_conn, number):
            pathlib.Path("running").write_text("yes")
            lakebranch_conn.execute("select pg_sleep(60)")
        """
    )
    run = project.start("-n", workers)
    project.wait_for("running")
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=60) == pytest.ExitCode.INTERRUPTED, project.output
    assert "KeyboardInterrupt" in project.output
    assert "INTERNALERROR" not in project.output
    assert "leases of tests" in project.output


def test_nested_run_inside_a_test(project: Project) -> None:
    """A test that holds a branch may run pytest itself, with branches of its own."""
    project.write(
        conftest="pytest_plugins = ['pytester']",
        test_it='''
        INNER = """
        import os, psycopg

        def test_inner(lakebranch):
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("create table inner_one (id int)")
        """

        def test_outer(lakebranch, pytester):
            import os, psycopg
            pytester.makepyfile(INNER)
            for run in (pytester.runpytest_inprocess, pytester.runpytest_subprocess):
                run("-p", "no:randomly", "-p", "no:django", "-p", "no:asyncio", "--lakebranch-env", "DATABASE_URL"
                    ).assert_outcomes(passed=1)
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                assert conn.execute("select count(*) from item").fetchone() == (2,)
                assert conn.execute("select to_regclass('inner_one')").fetchone() == (None,)
        ''',
    )
    project.run("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_two_runs_at_the_same_time(project: Project) -> None:
    """The same project run twice at the same time builds its base once, and neither run disturbs the other."""
    project.write(
        seed="""
        import pathlib

        def load(conn):
            with pathlib.Path(__file__).with_name("count").open("a") as stream:
                stream.write("x")
            conn.execute("select pg_sleep(0.5)")
        """,
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, lakebranch_conn):
            assert lakebranch_conn.execute("delete from item").rowcount == 2
            lakebranch_conn.commit()
        """,
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")
    first, second = project.start("-n", "2"), project.start()
    assert [first.wait(timeout=120), second.wait(timeout=120)] == [0, 0], project.output
    assert (project.path / "count").read_text() == "x"


def test_other_plugins(project: Project) -> None:
    """pytest-randomly, pytest-asyncio and pytest-django in the same run: async tests use aconnect."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.parametrize("number", range(2))
        async def test_async(lakebranch, number):
            async with await lakebranch.aconnect() as conn:
                await conn.execute("delete from item")

        @pytest.fixture
        async def rows(lakebranch):
            async with await lakebranch.aconnect() as conn:
                return (await (await conn.execute("select count(*) from item")).fetchone())[0]

        @pytest.mark.asyncio
        async def test_async_fixture(rows):
            assert rows == 2

        @pytest.mark.lakebranch(isolation="rollback")
        def test_rollback(lakebranch_conn):
            assert lakebranch_conn.execute("delete from item").rowcount == 2
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql", asyncio_mode="auto")
    result = project.spawn(
        *without_others("randomly", "asyncio", "django"), "-W", "ignore::DeprecationWarning", plain=False
    )
    result.assert_outcomes(passed=4)


def test_pytest_django_on_a_branch(project: Project) -> None:
    """pytest-django's own test database is made on the branch its settings lead to."""
    project.write(
        settings="""
        import os

        SECRET_KEY = "x"
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DB_NAME"], "USER": os.environ["DB_USER"],
            "HOST": os.environ["DB_HOST"], "PORT": os.environ["DB_PORT"],
        }}
        """,
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def django_db_modify_db_settings(lakebranch_worker, django_db_modify_db_settings): ...
        """,
        test_it="""
        import pytest

        @pytest.mark.django_db
        @pytest.mark.parametrize("number", range(2))
        def test_users(number):
            from django.contrib.auth.models import User
            User.objects.create(username="one")
            assert User.objects.count() == 1
        """,
    )
    project.ini(
        lakebranch_env=["DB_NAME={database}", "DB_USER={user}", "DB_HOST={host}", "DB_PORT={port}"],
        DJANGO_SETTINGS_MODULE="settings",
        pythonpath=".",
    )
    project.spawn(*without_others("django"), plain=False).assert_outcomes(passed=2)


DJANGO = """
import os

SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth"]
place = {"host": os.environ["DB_HOST"], "port": os.environ["DB_PORT"]}  # as dj-database-url has it
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DB_NAME"], "USER": os.environ["DB_USER"],
        "OPTIONS": place,
    },
    "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": "other.sqlite3"},
}
DATABASES["reading"] = {**DATABASES["default"], "TEST": {"MIRROR": "default"}}
"""


def test_pytest_django_on_a_migrated_base(project: Project) -> None:
    """What the base has brought is the test database, also under workers, with a project's own django_db_setup that
    fills it; other databases are made as ever."""
    project.write(
        settings=DJANGO,
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def django_db_setup(lakebranch_worker, django_db_setup, django_db_blocker):
            from django.contrib.auth.models import Group

            with django_db_blocker.unblock():
                Group.objects.create(name="clerks")
        """,
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        @pytest.mark.django_db(transaction=True, serialized_rollback=True, databases=["default", "other", "reading"])
        def test_users(number):
            from django.contrib.auth.models import Group, User
            from django.db import connection
            User.objects.create(username="one")
            User.objects.using("other").create(username="two")
            assert [user.username for user in User.objects.using("reading").all()] == ["one"]
            assert Group.objects.get().name == "clerks"
            assert connection.settings_dict["NAME"] == "app"
        """,
    )
    project.ini(
        lakebranch_base=["sql:schema.sql", "django:settings"],
        lakebranch_env=["DB_NAME={database}", "DB_USER={user}", "DB_HOST={host}", "DB_PORT={port}"],
        lakebranch_autouse=True,
        DJANGO_SETTINGS_MODULE="settings",
        pythonpath=".",
    )
    project.spawn(*without_others("django"), "-n", "2", plain=False).assert_outcomes(passed=2)


def test_unittest(project: Project) -> None:
    """A unittest.TestCase with the marker has a lease in setUp, in its tests and in tearDown."""
    project.write(
        test_it="""
        import os, psycopg, pytest, unittest

        def count():
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                return conn.execute("select count(*) from item").fetchone()[0]

        @pytest.mark.lakebranch
        class TestIt(unittest.TestCase):
            def setUp(self):
                with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                    conn.execute("insert into item values (3)")

            def tearDown(self):
                assert count() == 4

            def test_one(self):
                assert count() == 3
                with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                    conn.execute("insert into item values (4)")

            test_two = test_one
        """
    )
    project.run().assert_outcomes(passed=2)


def test_doctests(project: Project) -> None:
    """Doctests run as ever, and have a lease only where every test has one."""
    project.write(
        test_doc='''
        """
        >>> 1 + 1
        2
        """
        '''
    )
    result = project.run("--doctest-modules")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*leases of tests*")
    result = project.run("--doctest-modules", "--lakebranch-autouse")
    result.assert_outcomes(passed=1)


def test_steps_of_a_run_that_is_left_by_exit(project: Project) -> None:
    """pytest.exit in a test ends the run at once, and the run's branches with it."""
    project.write(
        test_it="""
        import pytest

        def test_it(lakebranch, lakebranch_worker):
            pytest.exit("enough", returncode=7)
        """
    )
    assert project.run().ret == 7


def test_garbage_from_a_killed_run_is_reaped(project: Project) -> None:
    """What a run left that was killed with its host is removed by the first lease of the next run."""
    project.write(test_it="def test_it(lakebranch): ...")
    dead = project.home / "runs" / "deadbeef"
    project.run().assert_outcomes(passed=1)
    dead.mkdir(mode=0o700)
    (dead / "alive.lock").touch()
    project.run().assert_outcomes(passed=1)
    assert poll(lambda: None if entries(dead.parent) else True, deadline=Deadline(SOON))
