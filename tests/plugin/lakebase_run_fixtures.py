"""Fixtures for whole runs on the emulator; a plugin, so that several test modules share one emulator."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lakebase_runs import Emulated, emulated, environ

from tests.plugin.conftest import Project

SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture(scope="session")
def service() -> Iterator[Emulated]:
    """An emulator for all tests of whole runs."""
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


@pytest.fixture
def linked(project: Project) -> Iterator[Path]:
    """Where LINKS puts them."""
    directory = project.home / "linked"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)
