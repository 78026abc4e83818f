"""A project with an application that reads its URL when it is imported."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture
def application(project: Project) -> None:
    """The project has a table with two rows and an application that reads DATABASE_URL when it is imported."""
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
