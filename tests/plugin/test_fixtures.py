"""The fixtures, what a Branch can do, and who takes a lease."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RECORDER, Project

SCHEMA = "create table item (id int primary key, name text); insert into item values (1, 'one'), (2, 'two');"


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql=SCHEMA)
    project.ini(lakebranch_base="sql:schema.sql")


def test_each_fixture_leads_to_the_base(project: Project) -> None:
    """Every fixture of ours leads to a branch that holds the base's rows."""
    project.write(
        test_it="""
        import psycopg, pytest

        def count(branch):
            with branch.connect() as conn:
                return conn.execute("select count(*) from item").fetchone()[0]

        def test_branch(lakebranch):
            assert count(lakebranch) == 2

        def test_connection(lakebranch_conn):
            assert not lakebranch_conn.autocommit
            assert lakebranch_conn.execute("select count(*) from item").fetchone()[0] == 2

        def test_url(lakebranch_url, lakebranch):
            assert lakebranch_url == lakebranch.url
            with psycopg.connect(lakebranch_url) as conn:
                assert conn.execute("select count(*) from item").fetchone()[0] == 2

        def test_worker(lakebranch_worker):
            assert count(lakebranch_worker) == 2

        def test_run(lakebranch_run):
            assert count(lakebranch_run) == 2

        def test_factory(lakebranch_factory):
            one, two = lakebranch_factory(), lakebranch_factory()
            with one.connect() as conn:
                conn.execute("delete from item")
            assert (count(one), count(two)) == (0, 2)
        """
    )
    project.run().assert_outcomes(passed=6)


def test_branch_says_what_it_is(project: Project) -> None:
    """name, url, conninfo, provider, parent and repr tell where a branch is, and no secret."""
    project.write(
        test_it="""
        import psycopg
        from psycopg.conninfo import conninfo_to_dict

        def test_it(lakebranch, lakebranch_factory):
            other = lakebranch_factory()
            assert lakebranch.name != other.name and lakebranch.url != other.url
            assert (lakebranch.provider, lakebranch.parent) == ("local", "base")
            pinned = conninfo_to_dict(lakebranch.conninfo)
            assert set(pinned) == {"host", "hostaddr", "port", "user", "dbname", "options"}
            assert (pinned["hostaddr"], pinned["options"], pinned["dbname"]) == ("", "", "app")
            assert conninfo_to_dict(lakebranch.url)["host"] == pinned["host"]
            assert lakebranch.name in repr(lakebranch)
            assert "password" not in repr(lakebranch) + str(vars(lakebranch))

        def test_connecting(lakebranch):
            with lakebranch.connect(autocommit=True, row_factory=psycopg.rows.dict_row) as conn:
                assert conn.autocommit
                assert conn.execute("select current_database() as name").fetchone() == {"name": "app"}
        """
    )
    project.run().assert_outcomes(passed=2)


def test_aconnect(project: Project) -> None:
    """aconnect gives an asynchronous connection to the same branch, with psycopg's keyword arguments."""
    project.write(
        test_it="""
        import asyncio

        async def count(branch):
            async with await branch.aconnect(autocommit=True) as conn:
                assert conn.autocommit
                return (await (await conn.execute("select count(*) from item")).fetchone())[0]

        def test_it(lakebranch):
            assert asyncio.run(count(lakebranch)) == 2
        """
    )
    project.run().assert_outcomes(passed=1)


FORKS_AND_RESETS = """
import psycopg, pytest
from pytest_lakebranch.errors import BranchError

def names(branch):
    with branch.connect() as conn:
        return [name for name, in conn.execute("select name from item order by id")]

def test_fork(lakebranch):
    open_one = lakebranch.connect()
    open_one.execute("insert into item values (4, 'not committed')")
    with lakebranch.connect() as conn:
        conn.execute("insert into item values (3, 'three')")
    with lakebranch.fork() as child:
        assert child.parent == lakebranch.name
        assert names(child) == ["one", "two", "three"]
        with child.connect() as conn:
            conn.execute("delete from item")
        with child.fork() as grandchild:
            assert names(grandchild) == [] and grandchild.parent == child.name
        open_one.commit()
        assert names(child) == []
    assert names(lakebranch) == ["one", "two", "three", "not committed"]
    with pytest.raises(BranchError, match="was released"):
        child.connect()
    with lakebranch.fork() as child:
        assert len(names(child)) == 4
    open_one.close()

def test_reset(lakebranch):
    before = lakebranch.url
    stale = lakebranch.connect()
    with lakebranch.connect() as conn:
        conn.execute("drop table item")
    lakebranch.reset()
    assert lakebranch.url == before
    assert names(lakebranch) == ["one", "two"]
    with pytest.raises(psycopg.OperationalError):
        stale.execute("select 1")
    lakebranch.reset()
    assert names(lakebranch) == ["one", "two"]

def test_reset_of_a_fork(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("delete from item where id = 1")
    with lakebranch.fork() as child:
        with child.connect() as conn:
            conn.execute("delete from item")
        child.reset()
        assert names(child) == ["two"]
"""


def test_fork_and_reset(project: Project) -> None:
    """A fork has the committed present of its parent and a life of its own; reset goes back to the leased state."""
    project.write(test_it=FORKS_AND_RESETS)
    project.run("-W", "error").assert_outcomes(passed=3)


def test_use_after_release(project: Project) -> None:
    """A branch that outlives its fixture refuses every use with BranchError, and its connections are ended."""
    project.write(
        test_it="""
        import asyncio, psycopg, pytest
        from pytest_lakebranch.errors import BranchError

        KEPT = []

        def test_keep(lakebranch):
            KEPT.extend([lakebranch, lakebranch.connect(), lakebranch.conninfo])

        @pytest.mark.parametrize("use", [
            lambda branch: branch.url,
            lambda branch: branch.conninfo,
            lambda branch: branch.connect(),
            lambda branch: asyncio.run(branch.aconnect()),
            lambda branch: branch.fork().__enter__(),
            lambda branch: branch.reset(),
        ], ids=["url", "conninfo", "connect", "aconnect", "fork", "reset"])
        def test_use(use):
            with pytest.raises(BranchError, match="b[0-9]+ was released when its fixture ended"):
                use(KEPT[0])

        def test_rest():
            branch, connection, conninfo = KEPT
            assert "released" in repr(branch) and branch.name
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 1")
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(conninfo)
        """
    )
    project.run().assert_outcomes(passed=8)


OF_EVERY_SCOPE = """
SEEN = {}

def use(**branches):
    for scope, branch in branches.items():
        SEEN.setdefault(scope, []).append(branch.name)
        with branch.connect() as conn:
            conn.execute("insert into item select max(id) + 1, 'more' from item")

class TestOne:
    def test_a(self, per_function, per_class, per_module, per_package, per_session):
        use(f=per_function, c=per_class, m=per_module, p=per_package, s=per_session)

    def test_b(self, per_function, per_class, per_module, per_package, per_session):
        use(f=per_function, c=per_class, m=per_module, p=per_package, s=per_session)
        with per_class.connect() as conn:
            assert conn.execute("select count(*) from item").fetchone() == (4,)
        with per_function.connect() as conn:
            assert conn.execute("select count(*) from item").fetchone() == (3,)

class TestTwo:
    def test_c(self, per_class, per_module, per_package, per_session):
        use(c=per_class, m=per_module, p=per_package, s=per_session)
        with per_class.connect() as conn:
            assert conn.execute("select count(*) from item").fetchone() == (3,)
"""


def test_fixtures_of_every_scope(project: Project) -> None:
    """lakebranch_fixture gives a branch for as long as its scope, in any of pytest's scopes."""
    project.write(
        conftest="""
        from pytest_lakebranch import lakebranch_fixture

        per_function = lakebranch_fixture()
        per_class = lakebranch_fixture(scope="class")
        per_module = lakebranch_fixture(scope="module")
        per_package = lakebranch_fixture(scope="package")
        per_session = lakebranch_fixture(scope="session")
        """,
        pkg____init__="",
        pkg__test_one=OF_EVERY_SCOPE,
        pkg__test_two="""
        from pkg import test_one

        def test_d(per_module, per_package, per_session):
            test_one.use(m=per_module, p=per_package, s=per_session)
            with per_module.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (3,)
            for branch in (per_package, per_session):
                with branch.connect() as conn:
                    assert conn.execute("select count(*) from item").fetchone() == (6,)
        """,
    )
    project.run().assert_outcomes(passed=4)


def test_fixture_with_a_base_of_its_own(project: Project) -> None:
    """lakebranch_fixture(base=…) takes steps and callables of its own, and leaves the project's base alone."""
    project.write(
        other_dot_sql="create table other (id int); insert into other values (7)",
        conftest="""
        from pytest_lakebranch import lakebranch_fixture

        def more(conn):
            conn.execute("insert into other values (8)")

        other = lakebranch_fixture(scope="module", base=["sql:other.sql", more])
        nothing = lakebranch_fixture(base=[])
        """,
        test_it="""
        def tables(branch):
            with branch.connect() as conn:
                return [name for name, in conn.execute("select tablename from pg_tables where schemaname = 'public'")]

        def test_it(other, nothing, lakebranch):
            assert (tables(other), tables(nothing), tables(lakebranch)) == (["other"], [], ["item"])
            with other.connect() as conn:
                assert conn.execute("select sum(id) from other").fetchone() == (15,)
        """,
    )
    project.run().assert_outcomes(passed=1)


def test_marker_alone_takes_a_lease(project: Project) -> None:
    """A marked test gets a branch without asking for a fixture, and lakebranch_autouse does so for every test."""
    project.write(
        conftest=RECORDER,
        test_it="""
        import pytest

        @pytest.mark.lakebranch
        def test_marked(): ...

        def test_unmarked(): ...
        """,
    )
    project.run().assert_outcomes(passed=2)
    assert [entry["test"] for entry in project.records(hook="ready")] == ["test_it.py::test_marked"]
    project.run("--lakebranch-autouse").assert_outcomes(passed=2)
    assert len(project.records(hook="ready")) == 3


def test_lease_comes_before_the_tests_own_fixtures(project: Project) -> None:
    """Function fixtures, also autouse ones, find the application's URL leading to the test's branch already."""
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")
    project.write(
        test_it="""
        import os, psycopg, pytest

        @pytest.fixture(autouse=True)
        def seed():
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("insert into item values (3, 'seeded')")
            yield
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                assert conn.execute("select count(*) from item").fetchone() == (4,)

        @pytest.mark.lakebranch
        @pytest.mark.parametrize("again", [1, 2])
        def test_it(again):
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("insert into item values (4, 'by the test')")
        """
    )
    project.run().assert_outcomes(passed=2)


def test_an_error_of_ours_is_shown_at_the_line_of_the_test(project: Project) -> None:
    """What a branch refuses in a test's own code comes without our stack."""
    project.write(
        test_it="""
        import os, signal, psycopg, pytest

        def test_fork(lakebranch):
            with lakebranch.connect(autocommit=True) as conn:
                stat = open(f"/proc/{conn.info.backend_pid}/stat").read()
                os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
                pytest.raises(psycopg.OperationalError, conn.execute, "select pg_sleep(100)")
            with lakebranch.fork():
                pass
        """
    )
    said = str(project.spawn().stdout)
    assert ">       with lakebranch.fork():" in said
    assert "cannot be forked: its server died" in said
    assert "pytest_lakebranch/" not in said, said
