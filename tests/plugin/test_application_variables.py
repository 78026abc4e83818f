"""Variables around the application's URL: they are put back, and none leads it elsewhere."""

from __future__ import annotations

import os

import pytest

from tests.plugin.conftest import Project

pytest_plugins = ["url_fixtures"]
pytestmark = pytest.mark.usefixtures("application")


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
