"""With xdist: any number of workers, any distribution, and workers that crash."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import RECORDER, Project

SCHEMA = "create table item (id serial primary key, name text); insert into item (name) values ('one'), ('two');"
WAIT = """
import pathlib
from pytest_lakebranch.waiting import Deadline, poll

HERE = pathlib.Path(__file__).parent

def say(what):
    (HERE / what).write_text("said")

def hear(what):
    assert poll(lambda: True if (HERE / what).exists() else None, deadline=Deadline(20)), what
"""


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows, and workers that can wait for each other."""
    project.write(schema_dot_sql=SCHEMA, conftest=RECORDER, wait=WAIT)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL", pythonpath=".")


@pytest.mark.parametrize(
    "options",
    ["-n 2 --dist load", "-n 2 --dist loadscope", pytest.param("-n 8 --dist worksteal", marks=pytest.mark.soak)],
)
def test_distributions(project: Project, options: str) -> None:
    """Under each distribution every test finds the base, through fixture and application alike."""
    project.write(
        test_it="""
        import os, psycopg, pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(number, lakebranch_conn):
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("insert into item (name) values ('more')")
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (3,)
        """
    )
    result = project.spawn(*options.split())
    result.assert_outcomes(passed=8)
    result.stdout.fnmatch_lines(["leases of tests: 8 (8 rewind)"])


def test_worker_crash(project: Project) -> None:
    """After a worker has crashed in a test, its successor goes on, the run branch is as it was, the summary appears."""
    project.write(
        test_it="""
        import os, pytest

        def add(branch):
            with branch.connect() as conn:
                conn.execute("insert into item (name) values ('in the run')")
                return conn.execute("select count(*) from item").fetchone()[0]

        def test_before(lakebranch_run, lakebranch_worker, lakebranch):
            assert add(lakebranch_run) == 3

        def test_crash(lakebranch, lakebranch_worker):
            os._exit(3)

        def test_after(lakebranch_run, lakebranch):
            assert add(lakebranch_run) == 4
            assert lakebranch.parent == lakebranch_run.name
        """
    )
    result = project.spawn("-n", "1")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed while running 'test_it.py::test_crash'*"])
    result.stdout.fnmatch_lines(["leases of tests: 3 (*replace)*; 1 run; *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_worker_crash_while_building(project: Project) -> None:
    """A worker that dies in a step gives its ticket back: the next worker builds the base, once."""
    project.write(
        seed="""
        import os, pathlib

        def load(conn):
            count = pathlib.Path(__file__).with_name("count")
            with count.open("a") as stream:
                stream.write("x")
            if len(count.read_text()) == 1:
                os._exit(3)
            conn.execute("insert into item (name) values ('seeded')")
        """,
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (3,)
        """,
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")
    project.spawn("-n", "2").assert_outcomes(passed=3, failed=1)
    assert (project.path / "count").read_text() == "xx"


def test_base_is_built_once_for_all_workers(project: Project) -> None:
    """However many workers ask at the same time, each step runs once."""
    project.write(
        seed="""
        import pathlib

        def load(conn):
            with pathlib.Path(__file__).with_name("count").open("a") as stream:
                stream.write("x")
        """,
        test_it="import pytest\n\n@pytest.mark.parametrize('n', range(16))\ndef test_it(n, lakebranch): ...",
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")
    project.spawn("-n", "4").assert_outcomes(passed=16)
    assert (project.path / "count").read_text() == "x"


def test_run_branch_of_other_workers_is_left_alone(project: Project) -> None:
    """What a worker's application holds open on the run branch is not ended when another worker's test ends."""
    project.write(
        test_one="""
        import os, psycopg, pytest
        from wait import hear, say

        @pytest.mark.lakebranch(isolation="run")
        def test_long():
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                say("open")
                hear("over")
                assert conn.execute("select count(*) from item").fetchone() == (2,)

        @pytest.mark.parametrize("number", range(3))
        def test_more(number): ...  # a worker holds back its last test until it knows that there is no other
        """,
        test_two="""
        import os, psycopg, pytest
        from wait import hear, say

        @pytest.mark.lakebranch(isolation="run")
        def test_short():
            hear("open")
            with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
                conn.execute("select 1")

        def test_next(lakebranch):
            say("over")

        @pytest.mark.parametrize("number", range(3))
        def test_more(number): ...
        """,
    )
    project.spawn("-n", "2", "--dist", "loadfile").assert_outcomes(passed=9)


def test_application_keeps_no_connection_to_a_shared_branch(project: Project) -> None:
    """A connection that the application kept from a worker or run test is dead in the next; a fixture's own is not."""
    project.write(
        test_it="""
        import os, psycopg, pytest

        KEPT = []

        @pytest.fixture(scope="module")
        def own(lakebranch_run, lakebranch_worker):
            with lakebranch_run.connect() as one, lakebranch_worker.connect() as two:
                yield one, two

        @pytest.mark.parametrize("shared", ["run", "worker"])
        def test_keep(request, own, shared):
            ...

        @pytest.mark.lakebranch(isolation="run")
        def test_keep_run(own):
            KEPT.append(psycopg.connect(os.environ["DATABASE_URL"]))

        @pytest.mark.lakebranch(isolation="worker")
        def test_keep_worker(own):
            KEPT.append(psycopg.connect(os.environ["DATABASE_URL"]))

        def test_next(lakebranch, own):
            for connection in KEPT:
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("select 1")
            for connection in own:
                assert connection.execute("select count(*) from item").fetchone() == (2,)
        """
    )
    project.run().assert_outcomes(passed=5)


def test_one_message_for_a_usage_error(project: Project) -> None:
    """With workers, a setting that cannot work is told once, by the controller, before a worker starts."""
    project.write(test_it="def test_it(lakebranch): ...")
    result = project.spawn("-n", "2", "--lakebranch-base", "sql:missing.sql")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert str(result.stderr).count("missing.sql") == 2  # the step, and the path that was tried
    assert "INTERNALERROR" not in str(result.stdout)
    assert "Traceback" not in str(result.stderr)
