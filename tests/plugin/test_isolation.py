"""Fresh state for each test, whatever earlier tests did; and the cheaper isolations."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RECORDER, Project

SCHEMA = """
create table item (id serial primary key, name text);
insert into item (name) values ('one'), ('two');
create unlogged table note (text text);
insert into note values ('sealed');
"""
SIGHT = '''
LOOK = """
select (select array_agg(name order by id) from item),
       (select array_agg(text) from note),
       (select last_value from item_id_seq),
       (select count(*) from pg_class where relnamespace = 'public'::regnamespace),
       (select array_agg(rolname::text order by rolname) from pg_roles where rolname !~ '^pg_'),
       (select array_agg(datname::text order by datname) from pg_database),
       (select count(*) from pg_prepared_xacts),
       (select count(*) from pg_largeobject_metadata),
       current_setting('work_mem'), current_setting('app.flag', true)
"""
DATABASES = ["app", "postgres", "template0", "template1"]
FRESH = (["one", "two"], ["sealed"], 2, 4, ["postgres"], DATABASES, 0, 0, "4MB", None)

def look(branch):
    with branch.connect() as conn:
        return conn.execute(LOOK).fetchone()
'''


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has tables with a few rows, and a server that takes prepared transactions."""
    project.write(schema_dot_sql=SCHEMA, conftest=RECORDER, sight=SIGHT)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_settings="max_prepared_transactions=5", pythonpath=".")


def test_fresh_after_anything(project: Project) -> None:
    """Each test finds the base's state, whatever the test before did to rows, catalog, cluster or server settings."""
    project.write(
        test_it="""
        import pytest
        from sight import FRESH, look

        DEEDS = {
            "dml": ["delete from item", "insert into item (name) values ('new')"],
            "ddl": ["drop table item cascade", "create table other (id int)"],
            "sequence": ["select nextval('item_id_seq')"],
            "setval": ["select setval('item_id_seq', 1000)"],
            "role": ["create role somebody login", "grant select on item to somebody"],
            "role_setting": ["alter role postgres set app.flag = 'on'"],
            "database_setting": ["alter database app set work_mem = '1MB'"],
            "database": ["create database another template app"],
            "drop_database": ["alter database app allow_connections true", "create database third"],
            "system": ["alter system set work_mem = '1MB'", "select pg_reload_conf()"],
            "unlogged": ["insert into note values ('not logged')"],
            "unlogged_new": ["create unlogged table fresh as select generate_series(1, 100)"],
            "prepared": ["begin", "insert into item (name) values ('x')", "prepare transaction 'left'"],
            "large_object": ["select lo_from_bytea(0, 'abc')"],
            "truncate": ["truncate item restart identity"],
            "rolled_back": ["begin", "delete from item", "rollback"],
            "aborted": ["begin", "delete from item"],
            "advisory": ["select pg_advisory_lock(42)"],
            "temporary": ["create temp table gone as select 1"],
            "listen": ["listen channel", "notify channel, 'x'"],
            "nothing": ["select * from item"],
        }

        @pytest.mark.parametrize("deed", DEEDS)
        def test_it(lakebranch, deed):
            assert look(lakebranch) == FRESH
            conn = lakebranch.connect(autocommit=True)
            assert conn.execute("select pg_try_advisory_lock(42), pg_advisory_unlock(42)").fetchone() == (True, True)
            for statement in DEEDS[deed]:
                conn.execute(statement)

        def test_last(lakebranch):
            assert look(lakebranch) == FRESH
        """
    )
    project.run("-W", "ignore::ResourceWarning").assert_outcomes(passed=22)


def test_reading_is_clean_and_writing_is_rewound(project: Project) -> None:
    """A branch whose test only read is lent again as it is; one that was written to is rewound, with the reason."""
    project.ini(lakebranch_base="sql:schema.sql", pythonpath=".")
    project.write(
        schema_dot_sql="create table item (id serial primary key, name text); insert into item (name) values ('one')",
        test_it="""
        import pytest

        @pytest.mark.parametrize("again", [1, 2])
        @pytest.mark.parametrize("sql", ["select * from item", "select count(*) from pg_class", "begin; rollback",
                                         "set work_mem = '1MB'"])
        def test_read(lakebranch_conn, sql, again):
            lakebranch_conn.execute(sql)

        @pytest.mark.parametrize("sql", ["insert into item (name) values ('x')", "create table other (id int)",
                                         "select nextval('item_id_seq')", "select lo_create(0)"])
        def test_write(lakebranch, sql):
            with lakebranch.connect() as conn:
                conn.execute(sql)
        """,
    )
    result = project.run()
    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["leases of tests: 12 (8 clean, 4 rewind)"])
    ended = project.records(hook="released")
    assert [entry["ending"] for entry in ended] == ["clean"] * 8 + ["rewind"] * 4
    assert len({entry["branch"] for entry in ended}) <= 3  # the lent one and two spares
    assert all("WAL" in entry["reason"] for entry in ended[8:])


def test_rollback(project: Project) -> None:
    """rollback undoes rows and DDL on the worker's branch, forbids commit(), and leaves sequences advanced."""
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL", pythonpath=".")
    project.write(
        test_it="""
        import os, psycopg, pytest

        pytestmark = pytest.mark.lakebranch(isolation="rollback")

        def test_write(lakebranch_conn):
            lakebranch_conn.execute("insert into item (name) values ('three')")
            lakebranch_conn.execute("create table other (id int)")
            with lakebranch_conn.transaction():
                lakebranch_conn.execute("insert into other values (1)")

        def test_undone(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
            assert lakebranch_conn.execute("select to_regclass('other')").fetchone() == (None,)
            assert lakebranch_conn.execute("select last_value from item_id_seq").fetchone() == (3,)

        def test_commit(lakebranch_conn):
            with pytest.raises(psycopg.ProgrammingError, match="commit"):
                lakebranch_conn.commit()

        def test_failed_statement(lakebranch_conn):
            with pytest.raises(psycopg.errors.UndefinedTable):
                lakebranch_conn.execute("select * from nowhere")

        def test_another_way(lakebranch_conn):
            with pytest.raises(psycopg.OperationalError, match="isolation='rollback'"):
                psycopg.connect(os.environ["DATABASE_URL"])

        def test_shared_branch(lakebranch_worker, lakebranch_conn):
            for way in (lakebranch_worker.connect, lakebranch_worker.reset, lambda: lakebranch_worker.url):
                with pytest.raises(Exception, match="isolation='rollback'"):
                    way()

        def test_closed(lakebranch_conn):
            lakebranch_conn.close()
        """
    )
    project.run().assert_outcomes(passed=7)
    (released,) = project.records(hook="released", test=None)
    assert released["ending"] == "rewind"


def test_rollback_refuses_other_fixtures(project: Project) -> None:
    """Under rollback, lakebranch and lakebranch_url fail with the reason and without a traceback of ours."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.lakebranch(isolation="rollback")
        @pytest.mark.parametrize("name", ["lakebranch", "lakebranch_url"])
        def test_it(request, name):
            request.getfixturevalue(name)

        @pytest.mark.lakebranch(isolation="rollback")
        def test_closure(lakebranch_conn, lakebranch): ...
        """
    )
    result = project.run()
    result.assert_outcomes(failed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*test_it.py::test_closure: this test has isolation='rollback': lakebranch_conn is its only way*"]
    )
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


@pytest.mark.parametrize("sql", ["COMMIT", "ROLLBACK", "COMMIT; BEGIN", "ABORT AND CHAIN", "END"])
def test_rollback_notices_sql_that_ends_it(project: Project, sql: str) -> None:
    """A test that ends its transaction by SQL is told so, by name."""
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.lakebranch(isolation="rollback")
        def test_it(lakebranch_conn):
            lakebranch_conn.execute("insert into item (name) values ('stays')")
            lakebranch_conn.execute("{sql}")
        """
    )
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*test_it.py::test_it: the test ended the transaction of isolation='rollback' by SQL*"]
    )
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_worker_and_run(project: Project) -> None:
    """worker and run share one branch among their tests, and those tests' URL leads there."""
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL", pythonpath=".")
    project.write(
        test_it="""
        import os, psycopg, pytest

        def add():
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("insert into item (name) values ('more')")
                return conn.execute("select count(*) from item").fetchone()[0]

        @pytest.mark.lakebranch(isolation="worker")
        @pytest.mark.parametrize("expected", [3, 4])
        def test_worker(expected):
            assert add() == expected

        @pytest.mark.lakebranch(isolation="run")
        @pytest.mark.parametrize("expected", [3, 4])
        def test_run(expected, lakebranch, lakebranch_run):
            assert lakebranch is lakebranch_run
            assert add() == expected

        @pytest.mark.lakebranch
        def test_own():
            assert add() == 3
        """
    )
    result = project.run()
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["leases of tests: 1 (1 rewind); 1 run; 1 worker"])


def test_one_run_branch_for_all_workers(project: Project) -> None:
    """With workers, isolation='run' gives them all the same branch and isolation='worker' each its own."""
    project.write(
        test_it="""
        import pytest
        from conftest import record

        @pytest.mark.parametrize("number", range(2))
        class TestEach:
            @pytest.mark.lakebranch(isolation="run")
            def test_run(self, lakebranch, lakebranch_conn, number):
                lakebranch_conn.execute("insert into item (name) values ('from any worker')")
                lakebranch_conn.commit()
                record(shared="run", branch=lakebranch.name)

            @pytest.mark.lakebranch(isolation="worker")
            def test_worker(self, lakebranch, number):
                record(shared="worker", branch=lakebranch.name)
        """
    )
    project.write(test_that=(project.path / "test_it.py").read_text())
    project.spawn("-n", "2", "--dist", "loadfile").assert_outcomes(passed=8)
    runs, workers = project.records(shared="run"), project.records(shared="worker")
    assert len({entry["branch"] for entry in runs}) == 1
    assert len({entry["worker"] for entry in runs}) == 2
    assert len({entry["worker"] for entry in workers}) == 2
    assert len({(entry["worker"], entry["branch"]) for entry in workers}) == 2  # perhaps the same one, rewound
