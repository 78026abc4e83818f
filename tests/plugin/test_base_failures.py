"""Bases that cannot be built: one whole message, then one line a test, nothing cached, no traceback of ours."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys

import pytest

from tests.plugin.conftest import PLAIN, Project

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(lakebranch_conn, number):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (1,)
"""


@pytest.fixture(autouse=True)
def tests(project: Project) -> None:
    """Each project has tests that pass once its base can be built."""
    project.write(test_it=TESTS)
    project.ini(lakebranch_base="sql:schema.sql", pythonpath=".")


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_syntax_error(project: Project, workers: str) -> None:
    """The first test has file, line, statement and the server's words; the others one line; a corrected file works."""
    project.write(schema_dot_sql="create table item (id int);\n\ninsert into item valuse (1);\n")
    run = project.run if workers == "0" else project.spawn
    result = run("-n", workers)
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        [
            "*sql:schema.sql failed at schema.sql:3:",
            '*syntax error at or near "valuse"*',
            "statement:",
            "*insert into item valuse (1);*",
        ]
    )
    assert str(result.stdout).count("statement:") == 1
    assert str(result.stdout).count("there is no base: sql:schema.sql failed at schema.sql:3") >= 2
    for text in ("INTERNALERROR", "Traceback", "pytest_lakebranch/", "During handling"):
        assert text not in str(result.stdout)
    project.write(schema_dot_sql=f"create table item (id int);\n\ninsert into item values (1); -- {workers}\n")
    result = run("-n", workers)
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["base built in * from 1 step (*"])


def test_wider_fixture_says_it_once(project: Project) -> None:
    """When a session fixture needed the base, the tests after the first have no traceback either."""
    project.write(
        schema_dot_sql="create tabel item (id int);",
        conftest="""
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def seed(lakebranch_worker):
            raise AssertionError("not reached")
        """,
    )
    result = project.run()
    result.assert_outcomes(errors=4)
    for text in ("INTERNALERROR", "Traceback", "pytest_lakebranch/", "not reached"):
        assert text not in str(result.stdout)


def test_python_step_that_raises(project: Project) -> None:
    """The message names the step, the place in the user's code, the error and the statement."""
    project.write(
        schema_dot_sql="create table item (id int);",
        seed="""
        def load(conn):
            conn.execute("insert into item values (1)")
            fill(conn)

        def fill(conn):
            conn.execute("insert into items values (1)")
        """,
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")
    result = project.run()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        [
            "*python:seed:load failed at seed.py:7:",
            '*UndefinedTable: relation "items" does not exist*',
            "*insert into items values (1)*",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")
    project.write(seed='def load(conn):\n    conn.execute("insert into item values (1)")\n')
    project.run().assert_outcomes(passed=4)


def test_files_that_are_edited_meanwhile(project: Project) -> None:
    """What was made of the old ones does not count as what the new ones make: that is built for the next test."""
    project.write(
        schema_dot_sql="create table item (id int);",
        seed="""
        from pathlib import Path

        def load(conn):
            file = Path("schema.sql")
            if "old" not in file.read_text():
                file.write_text("create table item (id int, old int);")
            conn.execute("insert into item values (1)")
        """,
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")
    result = project.run()
    result.assert_outcomes(errors=1, passed=3)
    result.stdout.fnmatch_lines(["*sql:schema.sql: its files changed while the base was being built*Run again.*"])
    result.stdout.fnmatch_lines(["base built in * from 2 steps (*"])


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        ("import psycopg; LEFT = psycopg.connect(conn.info.dsn)", "*its steps left connections open: *Close them*"),
        (
            "conn.execute('begin'); conn.execute(\"prepare transaction 'left'\")",
            "*its steps left prepared transactions: 'left' in database app. Commit or roll them back*",
        ),
    ],
    ids=["connection", "prepared"],
)
def test_step_that_leaves_something(project: Project, leave: str, said: str) -> None:
    """A step that leaves a connection or a prepared transaction is refused, with what it left and what to do."""
    project.write(
        schema_dot_sql="create table item (id int); insert into item values (1)",
        seed=f"""
        LEFT = None

        def load(conn):
            global LEFT
            {leave}
        """,
    )
    project.ini(
        lakebranch_base=["sql:schema.sql", "python:seed:load"],
        lakebranch_settings="max_prepared_transactions=2",
        pythonpath=".",
    )
    result = project.spawn("-W", "ignore::ResourceWarning")
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines([said])
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_setting_that_the_server_refuses(project: Project) -> None:
    """A value that only a server that starts can judge is told with its own words, once, without a traceback."""
    project.write(schema_dot_sql="create table item (id int); insert into item values (1)")
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_settings="shared_preload_libraries=no_such_library")
    result = project.run()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(["*no_such_library*"])
    for text in ("INTERNALERROR", "Traceback", "pytest_lakebranch/", "During handling"):
        assert text not in str(result.stdout)


def on_a_terminal(project: Project, *options: str, output: int | None = None) -> str:
    """What pytest writes when its output is a terminal; with ``output``, when only its errors go there."""
    master, slave = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLAIN, *options],
        cwd=project.path,
        stdin=slave,
        stdout=output or slave,
        stderr=slave,
    )
    os.close(slave)
    text = b""
    while select.select([master], [], [], 60)[0]:
        try:
            more = os.read(master, 4096)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not more:
            break
        text += more
    os.close(master)
    assert run.wait(timeout=60) == 0, text
    return text.decode().replace("\r\n", "\n")


@pytest.fixture
def slow_base(project: Project) -> None:
    """Building takes more than the second after which something is said."""
    project.write(
        schema_dot_sql="create table item (id int); insert into item values (1)",
        seed="def load(conn):\n    conn.execute('select pg_sleep(1.2)')\n",
    )
    project.ini(lakebranch_base=["sql:schema.sql", "python:seed:load"], pythonpath=".")


@pytest.mark.usefixtures("slow_base")
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_progress_on_a_terminal(project: Project, workers: str) -> None:
    """On a terminal, a base that takes long has a line per step, also from a worker; a cached one has none."""
    said = on_a_terminal(project, "--lakebranch-rebuild", "-n", workers)
    for line in (
        "lakebranch: building the base (2 steps)",
        "  sql:schema.sql: ",
        "  python:seed:load: done, ",
        "lakebranch: base ready after ",
    ):
        assert line in said, said
    assert "building the base" not in on_a_terminal(project, "-n", workers)


@pytest.mark.usefixtures("slow_base")
@pytest.mark.soak
def test_progress_elsewhere(project: Project) -> None:
    """Under -q, or where the output does not go to a terminal, nothing is said."""
    assert "building the base" not in on_a_terminal(project, "-q", "--lakebranch-rebuild")
    assert "building the base" not in on_a_terminal(project, "--lakebranch-rebuild", output=subprocess.DEVNULL)
    result = project.run("--lakebranch-rebuild")
    assert "building the base" not in str(result.stdout) + str(result.stderr)


def test_step_that_ends_its_server(project: Project) -> None:
    """The step knows only that its connection is lost; the message has the server's own words."""
    project.write(schema_dot_sql="copy (select 1) to program 'kill -9 $PPID; sleep 1';")
    project.ini(lakebranch_base="sql:schema.sql")
    result = project.spawn()
    result.stdout.fnmatch_lines(
        ["sql:schema.sql failed at schema.sql:1:", "*Its server died: *terminated by signal 9*"]
    )
