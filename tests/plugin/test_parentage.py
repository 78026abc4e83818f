"""Which branch a test's branch is forked from: by the test's own fixtures, never by what other tests did."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project, without_others

SCHEMA = "create table item (id int primary key, name text); insert into item values (1, 'one'), (2, 'two');"
SEEDED = """
import pytest
from conftest import record

def names(conn):
    return [name for name, in conn.execute("select name from item order by id")]

@pytest.fixture(scope="session")
def seeded(lakebranch_worker):
    with lakebranch_worker.connect() as conn:
        conn.execute("insert into item values (3, 'by the fixture')")
    return lakebranch_worker

@pytest.fixture(scope="session")
def run_seeded(lakebranch_run):
    with lakebranch_run.connect() as conn:
        conn.execute("insert into item values (3, 'in the run') on conflict do nothing")

@pytest.mark.parametrize("number", range(4))
class TestSeeded:
    @pytest.fixture(autouse=True)
    def needs(self, seeded): ...

    def test_read(self, lakebranch_conn, number):
        assert names(lakebranch_conn) == ["one", "two", "by the fixture"]

    def test_write(self, lakebranch, number):
        assert lakebranch.parent.startswith("b") and lakebranch.parent != "base"
        with lakebranch.connect() as conn:
            conn.execute("update item set name = 'gone'")

@pytest.mark.parametrize("number", range(4))
def test_of_the_run(lakebranch, run_seeded, number):
    with lakebranch.connect() as conn:
        assert names(conn) == ["one", "two", "in the run"]
        conn.execute("delete from item")

def test_both(lakebranch, run_seeded, seeded):
    assert lakebranch.parent == seeded.name

@pytest.mark.parametrize("number", range(4))
def test_not_seeded(lakebranch, number):
    assert lakebranch.parent == "base"
    with lakebranch.connect() as conn:
        assert names(conn) == ["one", "two"]
        conn.execute("delete from item")
"""


@pytest.fixture(autouse=True)
def suite(project: Project) -> None:
    """A suite in which some tests have a seeding fixture in their closure and others do not."""
    project.write(
        schema_dot_sql=SCHEMA,
        conftest="def record(**facts): ...",
        test_it=SEEDED,
    )
    project.ini(lakebranch_base="sql:schema.sql")


@pytest.mark.parametrize(
    "options", ["-n 0", pytest.param("-n 2 --dist load", marks=pytest.mark.soak), "-n 8 --dist load"]
)
def test_same_data_with_any_number_of_workers(project: Project, options: str) -> None:
    """Tests with the seeding fixture see its rows and others see the base, with no, two and eight workers."""
    project.spawn(*options.split()).assert_outcomes(passed=17)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_same_data_in_random_order(project: Project, seed: str) -> None:
    """The order of the tests changes nothing."""
    result = project.spawn(*without_others("randomly"), f"--randomly-seed={seed}", plain=False)
    result.assert_outcomes(passed=17)
    result.stdout.fnmatch_lines([f"Using --randomly-seed={seed}"])


def test_forks_follow_the_workers_present(project: Project) -> None:
    """A test's branch is forked from the worker branch as it is then, also after wider fixtures wrote again."""
    project.write(
        test_it="""
        import pytest

        @pytest.fixture(scope="class")
        def more(lakebranch_worker):
            with lakebranch_worker.connect() as conn:
                conn.execute("insert into item select max(id) + 1, 'more' from item")

        def count(branch):
            with branch.connect() as conn:
                return conn.execute("select count(*) from item").fetchone()[0]

        class TestOne:
            def test_a(self, more, lakebranch):
                assert count(lakebranch) == 3

        class TestTwo:
            def test_b(self, more, lakebranch, lakebranch_worker):
                assert count(lakebranch) == 4
                with lakebranch_worker.connect() as conn:
                    conn.execute("insert into item values (9, 'after the fork')")
                assert count(lakebranch) == 4

            def test_c(self, lakebranch, lakebranch_worker):
                assert count(lakebranch) == 5

        def test_factory_gives_the_base(lakebranch_worker, lakebranch_factory):
            assert count(lakebranch_factory()) == 2
        """
    )
    project.run().assert_outcomes(passed=4)


def test_autouse_fixture_of_the_project(project: Project) -> None:
    """An autouse fixture that seeds the worker branch does so for every test, also those with the marker alone."""
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")
    project.write(
        conftest="""
        import os, psycopg, pytest

        @pytest.fixture(scope="session", autouse=True)
        def seed(lakebranch_worker):
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("insert into item values (3, 'three')")
        """,
        test_it="""
        import os, psycopg, pytest

        @pytest.mark.lakebranch
        @pytest.mark.parametrize("again", [1, 2])
        def test_marked(again):
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                assert conn.execute("select count(*) from item").fetchone() == (3,)
                conn.execute("delete from item")

        def test_destructive(lakebranch): ...
        test_destructive = pytest.mark.destructive(test_destructive)

        def test_without_a_lease(lakebranch_worker):
            with lakebranch_worker.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (3,)
        """,
    )
    project.run().assert_outcomes(passed=4)


def test_running_parent_is_forked_consistently(project: Project) -> None:
    """A fork has whole transactions only, while other connections write to its parent without pause."""
    project.write(
        test_it="""
        import threading

        def test_it(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("create table pair (a int, b int)")
                conn.execute("insert into pair values (0, 0)")
            stop = threading.Event()

            def write():
                with lakebranch.connect(autocommit=True) as conn:
                    while not stop.is_set():
                        with conn.transaction():
                            conn.execute("update pair set a = a + 1")
                            conn.execute("insert into item select max(id) + 1, 'w' from item")
                            conn.execute("update pair set b = b + 1")

            writers = [threading.Thread(target=write) for _ in range(2)]
            for writer in writers:
                writer.start()
            seen = []
            try:
                for _ in range(3):
                    with lakebranch.fork() as child, child.connect() as conn:
                        a, b, rows = conn.execute("select a, b, (select count(*) from item) from pair").fetchone()
                        assert a == b == rows - 2
                        conn.execute("select count(*) from item where id > 0")
                        seen.append(a)
            finally:
                stop.set()
                for writer in writers:
                    writer.join()
            assert seen == sorted(seen) and seen[0] < seen[-1]
        """
    )
    project.run().assert_outcomes(passed=1)
