"""Tests that may do anything to their database."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RECORDER, Project

SCHEMA = "create table item (id int); insert into item values (1), (2);"


def test_marker_alone_is_none_of_our_business(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of our fixtures or settings a destructive marker does nothing: it may be another plugin's."""
    project.pytester.makeini("[pytest]")
    project.write(
        conftest=RECORDER,
        test_it="""
        import pytest

        @pytest.mark.destructive
        def test_it(): ...

        @pytest.mark.destructive("with", what="arguments")
        def test_foreign(): ...
        """,
    )
    monkeypatch.delenv("LAKEBRANCH_HOME")
    result = project.spawn("--strict-markers")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*lakebranch:*")
    assert project.records() == []


def test_with_a_setting_it_takes_a_lease(project: Project) -> None:
    """With a setting of ours, the destructive marker alone leases a disposable branch."""
    project.write(
        schema_dot_sql=SCHEMA,
        conftest=RECORDER,
        test_it="""
        import os, psycopg, pytest

        @pytest.mark.destructive
        def test_it():
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                assert conn.execute("select count(*) from item").fetchone() == (2,)
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["leases of tests: 1 (1 replace), of these 1 destructive"])
    (released,) = project.records(hook="released")
    assert (released["ending"], released["reason"]) == ("replace", "destructive")


def test_superuser_and_never_reused(project: Project) -> None:
    """A destructive test is a superuser where others are not, and its branch is not lent again, even if only read."""
    project.write(
        schema_dot_sql=SCHEMA,
        conftest=RECORDER,
        test_it="""
        import pytest

        SUPER = "select rolsuper from pg_roles where rolname = current_user"

        def test_ordinary(lakebranch_conn):
            assert lakebranch_conn.execute(SUPER).fetchone() == (False,)

        @pytest.mark.destructive
        def test_one(lakebranch_conn):
            assert lakebranch_conn.execute(SUPER).fetchone() == (True,)

        @pytest.mark.lakebranch(destructive=True)
        def test_two(lakebranch_conn):
            assert lakebranch_conn.execute(SUPER).fetchone() == (True,)

        def test_ordinary_again(lakebranch_conn):
            assert lakebranch_conn.execute(SUPER).fetchone() == (False,)
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_user="shop")
    project.run().assert_outcomes(passed=4)
    ends = {entry["test"].split("::")[1]: entry for entry in project.records(hook="released")}
    assert [ends[name]["ending"] for name in ends] == ["clean", "replace", "replace", "clean"]
    used = [ends[name]["branch"] for name in ("test_one", "test_two", "test_ordinary_again")]
    assert len(set(used)) == 3


RUINOUS = """
import os, pathlib, pytest, shutil, signal

@pytest.fixture(autouse=True)
def sound_before(lakebranch):
    with lakebranch.connect() as conn:
        assert conn.execute("select count(*) from item").fetchone() == (2,)

def alone(branch):
    return branch.connect(autocommit=True)

@pytest.mark.destructive
def test_drop(lakebranch):
    with lakebranch.connect(autocommit=True, dbname="postgres") as conn:
        conn.execute("drop database app with (force)")
        conn.execute("create role other superuser")

@pytest.mark.destructive
def test_catalog(lakebranch):
    with alone(lakebranch) as conn:
        conn.execute("set allow_system_table_mods = on")
        conn.execute("delete from pg_class where relname = 'item'")

@pytest.mark.destructive
def test_kill(lakebranch):
    with alone(lakebranch) as conn:
        pid = int(conn.execute("select pg_read_file('postmaster.pid', 0, 10)").fetchone()[0].split()[0])
        os.kill(pid, signal.SIGKILL)

@pytest.mark.destructive
def test_crash(lakebranch):
    with alone(lakebranch) as conn:
        os.kill(conn.info.backend_pid, signal.SIGSEGV)

@pytest.mark.destructive
def test_shutdown(lakebranch):
    with alone(lakebranch) as conn:
        pid = int(conn.execute("select pg_read_file('postmaster.pid', 0, 10)").fetchone()[0].split()[0])
        os.kill(pid, signal.SIGQUIT)

@pytest.mark.destructive
def test_files(lakebranch):
    with alone(lakebranch) as conn:
        conn.execute("copy (select 1) to program 'rm -rf base global/pg_filenode.map pg_wal'")

def test_last(): ...
"""


def test_next_tests_are_sound(project: Project) -> None:
    """After tests that drop what they can, ruin the files or kill the server, the next tests find the base."""
    project.write(
        schema_dot_sql=SCHEMA,
        test_it=RUINOUS,
    )
    project.ini(lakebranch_base="sql:schema.sql")
    result = project.run()
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["leases of tests: 7 (1 clean, 6 replace), of these 6 destructive"])
    result.stdout.no_fnmatch_line("*left behind*")


def test_not_marked_and_killing_the_server(project: Project) -> None:
    """A test that is not marked and kills its server loses only its own branch, and the reason is reported."""
    project.write(
        schema_dot_sql=SCHEMA,
        conftest=RECORDER,
        test_it="""
        import os, signal

        def test_kill(lakebranch):
            with lakebranch.connect() as conn:
                os.kill(conn.info.backend_pid, signal.SIGKILL)

        def test_next(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql")
    result = project.run()
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_kill*"])
    first, second = project.records(hook="released")
    assert (first["ending"], second["ending"]) == ("replace", "clean")
    assert "server died" in first["reason"]
