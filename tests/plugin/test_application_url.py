"""The application's URL: constant, set before the application is imported, and leading to the running test."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

from tests.plugin.conftest import Project

SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows and an application that reads DATABASE_URL when it is imported."""
    project.write(
        schema_dot_sql=SCHEMA,
        app="""
        import os, psycopg

        URL = os.environ["DATABASE_URL"]

        def connect():
            return psycopg.connect(URL)

        def count():
            with connect() as conn:
                return conn.execute("select count(*) from item").fetchone()[0]

        def clear():
            with connect() as conn:
                conn.execute("delete from item")
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL", pythonpath=".")


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


def test_around_tests(project: Project) -> None:
    """Around tests the URL leads to lakebranch_worker, else to lakebranch_run, else it refuses with a reason; in a
    test that has no branch it refuses also where a shared one is open.
    """
    project.write(
        test_it="""
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

            def test_around_again(self, by_worker):
                assert app.count() == 0
        """
    )
    project.run().assert_outcomes(passed=8)


def test_refusal_to_every_driver(project: Project) -> None:
    """psycopg, asyncpg and SQLAlchemy see the refusal as an error of theirs that carries the reason."""
    project.write(
        test_it="""
        import asyncio, app, asyncpg, psycopg, pytest, sqlalchemy

        REASON = "no test with a branch is running"

        def test_psycopg():
            with pytest.raises(psycopg.OperationalError, match=REASON):
                app.count()

        def test_asyncpg():
            with pytest.raises(asyncpg.PostgresError, match=REASON):
                asyncio.run(asyncpg.connect(app.URL))

        def test_sqlalchemy():
            with pytest.raises(sqlalchemy.exc.OperationalError, match=REASON):
                sqlalchemy.create_engine(app.URL.replace("postgresql:", "postgresql+psycopg:")).connect()
        """
    )
    project.spawn().assert_outcomes(passed=3)  # not here: asyncpg cannot be loaded twice


def test_asyncpg(project: Project) -> None:
    """asyncpg takes the URL as it is; a connection kept over the end of the test is ended, and a new one works."""
    project.write(
        test_it="""
        import asyncio, app, asyncpg, pytest

        async def count():
            conn = await asyncpg.connect(app.URL)
            try:
                await conn.execute("insert into item values (3)")
                return await conn.fetchval("select count(*) from item")
            finally:
                await conn.close()

        @pytest.mark.lakebranch
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert asyncio.run(count()) == 3
        """
    )
    project.spawn().assert_outcomes(passed=3)  # not here: asyncpg cannot be loaded twice


@pytest.mark.parametrize("pool", ["", ", poolclass=sqlalchemy.StaticPool", ", pool_size=1, max_overflow=0"])
def test_sqlalchemy_engine_made_at_import(project: Project, pool: str) -> None:
    """An engine made at import keeps no connection over a test's end: the next test neither fails nor sees its data."""
    project.write(
        models=f"""
        import os, sqlalchemy

        engine = sqlalchemy.create_engine(os.environ["SA_URL"]{pool})
        """,
        conftest="import models",
        test_it="""
        import pytest, sqlalchemy
        from models import engine
        from sqlalchemy.orm import Session

        pytestmark = pytest.mark.lakebranch

        @pytest.mark.parametrize("number", range(3))
        def test_write(number):
            with engine.begin() as conn:
                conn.execute(sqlalchemy.text("insert into item values (3)"))
            with engine.connect() as conn:
                assert conn.scalar(sqlalchemy.text("select count(*) from item")) == 3

        SESSIONS = []

        def test_session_left_open():
            session = Session(engine)
            SESSIONS.append(session)
            assert session.scalar(sqlalchemy.text("select count(*) from item")) == 2
            session.close()

        def test_session_used_again():
            (session,) = SESSIONS
            assert session.scalar(sqlalchemy.text("select count(*) from item")) == 2
            session.close()

        def test_reset(lakebranch):
            with engine.begin() as conn:
                conn.execute(sqlalchemy.text("drop table item"))
            lakebranch.reset()
            with engine.connect() as conn:
                assert conn.scalar(sqlalchemy.text("select count(*) from item")) == 2
        """,
    )
    project.ini(
        lakebranch_base="sql:schema.sql",
        lakebranch_env="SA_URL=postgresql+psycopg://{user}@/{database}?host={host}&port={port}",
        pythonpath=".",
    )
    project.spawn().assert_outcomes(passed=6)


@pytest.mark.skipif(
    find_spec("greenlet") is None, reason="greenlet, which SQLAlchemy's asyncio needs, is not installed"
)
def test_sqlalchemy_loaded_in_a_test(project: Project) -> None:
    """An application that a test is the first to import has no connection left of that test, either."""
    project.write(
        models="""
        import os, sqlalchemy
        from sqlalchemy.ext.asyncio import create_async_engine

        engine = sqlalchemy.create_engine(os.environ["SA_URL"])
        tasks = create_async_engine(os.environ["SA_URL"])

        def count():
            with engine.begin() as conn:
                conn.execute(sqlalchemy.text("insert into item values (3)"))
                return conn.scalar(sqlalchemy.text("select count(*) from item"))

        async def acount():
            async with tasks.begin() as conn:
                return await conn.scalar(sqlalchemy.text("select count(*) from item"))
        """,
        test_it="""
        import asyncio, sys, pytest

        pytestmark = pytest.mark.lakebranch
        LOOP = asyncio.new_event_loop()

        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert ("sqlalchemy" in sys.modules) == (number > 0)
            import models
            assert LOOP.run_until_complete(models.acount()) == 2
            assert models.count() == 3

        def test_last():
            LOOP.run_until_complete(sys.modules["models"].tasks.dispose())
            LOOP.close()
        """,
    )
    project.ini(
        lakebranch_base="sql:schema.sql",
        lakebranch_env="SA_URL=postgresql+psycopg://{user}@/{database}?host={host}&port={port}",
        pythonpath=".",
    )
    project.spawn().assert_outcomes(passed=4)


@pytest.mark.skipif(
    find_spec("greenlet") is None, reason="greenlet, which SQLAlchemy's asyncio needs, is not installed"
)
def test_async_sqlalchemy_engine(project: Project) -> None:
    """An asynchronous engine on asyncpg, made at import, works in one test after the other."""
    project.write(
        models="""
        import os
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy import NullPool

        engine = create_async_engine(os.environ["SA_URL"], poolclass=NullPool)
        """,
        test_it="""
        import asyncio, pytest, sqlalchemy
        from models import engine

        async def count():
            async with engine.begin() as conn:
                await conn.execute(sqlalchemy.text("insert into item values (3)"))
                return await conn.scalar(sqlalchemy.text("select count(*) from item"))

        @pytest.mark.lakebranch
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert asyncio.run(count()) == 3
        """,
    )
    project.ini(
        lakebranch_base="sql:schema.sql",
        lakebranch_env="SA_URL=postgresql+asyncpg://{user}@/{database}?host={host}&port={port}",
        pythonpath=".",
    )
    project.spawn().assert_outcomes(passed=3)


def test_django(project: Project) -> None:
    """Django's connections, also persistent ones, lead to the running test's branch and never fail in the next."""
    project.write(
        settings="""
        import os

        SECRET_KEY = "x"
        DATABASES = {"default": {
            "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DB_NAME"], "USER": os.environ["DB_USER"],
            "HOST": os.environ["DB_HOST"], "PORT": os.environ["DB_PORT"], "CONN_MAX_AGE": None,
        }}
        """,
        conftest="""
        import os

        os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
        import django

        django.setup()
        """,
        test_it="""
        import pytest
        from django.db import connection

        @pytest.mark.lakebranch
        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            with connection.cursor() as cursor:
                cursor.execute("insert into item values (3)")
                cursor.execute("select count(*) from item")
                assert cursor.fetchone() == (3,)
        """,
    )
    project.ini(
        lakebranch_base="sql:schema.sql",
        lakebranch_env=["DB_NAME={database}", "DB_USER={user}", "DB_HOST={host}", "DB_PORT={port}"],
        pythonpath=".",
    )
    project.spawn().assert_outcomes(passed=3)


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


def test_environment_is_restored(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the run, and after one that ended with a usage error, the variables are what they were before."""
    project.ini(
        lakebranch_base="sql:schema.sql", lakebranch_env=["DATABASE_URL", "OTHER_URL={url}&x=1"], pythonpath="."
    )
    project.write(test_it="import os\n\ndef test_it():\n    assert os.environ['OTHER_URL'].endswith('&x=1')")
    monkeypatch.setenv("DATABASE_URL", "postgresql://production/")
    monkeypatch.delenv("OTHER_URL", raising=False)
    project.run().assert_outcomes(passed=1)
    assert os.environ["DATABASE_URL"] == "postgresql://production/"
    assert "OTHER_URL" not in os.environ
    assert project.run("--no-such-option").ret == pytest.ExitCode.USAGE_ERROR
    assert os.environ["DATABASE_URL"] == "postgresql://production/"
    assert "OTHER_URL" not in os.environ


@pytest.mark.parametrize("options", [("--no-such-option",), ("--help",), ("--version",), ("--fixtures",), ("--co",)])
def test_nothing_stays_of_runs_without_tests(project: Project, options: tuple[str, ...]) -> None:
    """A run that ends before its first test leaves no socket directory (checked after each test of this folder)."""
    project.write(test_it="def test_it(): ...")
    project.spawn(*options)


def test_conftest_that_cannot_be_imported(project: Project) -> None:
    """The place of the application's URL is removed also when conftest.py fails."""
    project.write(conftest="import nothing_of_this_name", test_it="def test_it(): ...")
    assert project.spawn().ret == pytest.ExitCode.USAGE_ERROR


def test_stray_variables_lead_nowhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOSTADDR, PGHOST, PGPORT, PGSERVICE, PGOPTIONS and PGDATABASE move neither branches nor the application."""
    project.write(
        services_dot_conf="[elsewhere]\nhost=192.0.2.1\nport=1\ndbname=production\n",
        test_it="""
        import app, asyncio, psycopg

        CHECK = "select count(*), current_setting('work_mem'), current_database() from item"

        def test_it(lakebranch, lakebranch_conn, lakebranch_url):
            assert lakebranch_conn.execute(CHECK).fetchone() == (2, "4MB", "app")
            for way in (lakebranch.conninfo, lakebranch.url, lakebranch_url, app.URL):
                with psycopg.connect(way) as conn:
                    assert conn.execute(CHECK).fetchone() == (2, "4MB", "app")
            with lakebranch.connect() as conn, lakebranch.fork() as child, child.connect() as other:
                assert conn.execute(CHECK).fetchone() == other.execute(CHECK).fetchone() == (2, "4MB", "app")

            async def count():
                async with await lakebranch.aconnect() as conn:
                    return await (await conn.execute(CHECK)).fetchone()

            assert asyncio.run(count()) == (2, "4MB", "app")
        """,
    )
    for name, value in {
        "PGHOSTADDR": "192.0.2.1",
        "PGHOST": "192.0.2.1",
        "PGPORT": "1",
        "PGDATABASE": "production",
        "PGUSER": "somebody",
        "PGOPTIONS": "-c work_mem=1MB",
        "PGSERVICE": "elsewhere",
        "PGSERVICEFILE": str(project.path / "services.conf"),
        "PGCONNECT_TIMEOUT": "5",
    }.items():
        monkeypatch.setenv(name, value)
    project.spawn("--lakebranch-rebuild").assert_outcomes(passed=1)
    project.spawn("-n", "2").assert_outcomes(passed=1)


WAYS = {
    "PGSERVICE": "of-another-project",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "nobody-of-this-name",
    "PGTARGETSESSIONATTRS": "standby",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGSSLMODE": "no-such-mode",
}
"""Of a shell that is set up for another server."""


@pytest.mark.parametrize("listen", ["unix", "tcp"])
def test_variables_that_ask_for_another_way_disturb_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    """Neither steps, branches and the application, nor our own connections, with or without lakebranch_env."""
    project.write(
        seeds="""
        def load(conn):
            conn.execute("create table item (id int)")
        """,
        test_it="""
        import asyncio, os, psycopg

        def test_it(lakebranch, lakebranch_conn):
            lakebranch_conn.execute("select * from item")
            assert not lakebranch.diff()

            async def count():
                async with await lakebranch.aconnect() as conn:
                    return await (await conn.execute("select count(*) from item")).fetchone()

            assert asyncio.run(count()) == (0,)
            if "DATABASE_URL" in os.environ:
                psycopg.connect(os.environ["DATABASE_URL"]).close()
            else:
                assert os.environ["PGSERVICE"] == "of-another-project", "it is the user's"
        """,
    )
    for name, value in WAYS.items():
        monkeypatch.setenv(name, value)
    given = {"lakebranch_env": "DATABASE_URL", "lakebranch_listen": "tcp"} if listen == "tcp" else {}
    project.ini(lakebranch_base="python:seeds:load", pythonpath=".", **given)
    result = project.spawn("--lakebranch-rebuild", "--lakebranch-schema-diff=diff.md")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*schema diff from source:*"])


def test_variables_set_by_a_test(project: Project) -> None:
    """A PG* variable that a test sets itself does not move conninfo, url or connect()."""
    project.write(
        test_it="""
        import app, psycopg

        def test_it(lakebranch, monkeypatch):
            monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
            monkeypatch.setenv("PGOPTIONS", "-c work_mem=1MB")
            for way in (lakebranch.conninfo, lakebranch.url):
                with psycopg.connect(way, connect_timeout=5) as conn:
                    assert conn.execute("show work_mem").fetchone() == ("4MB",)
        """
    )
    project.spawn().assert_outcomes(passed=1)


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
        test_it="""
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
        """,
    )
    project.run(*options, "--dist=loadfile" if options else "-q").assert_outcomes(passed=8)
