"""What drivers and frameworks make of the application's URL, and of the connections that they keep."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.plugin.conftest import Project

pytest_plugins = ["url_fixtures"]
pytestmark = pytest.mark.usefixtures("application")


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
