"""Where the system refuses calls that we would like: no user namespaces for an ordinary user, no pidfds for anybody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import pytest_lakebranch
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.cli_rigs import SCHEMA
from tests.plugin.conftest import PLAIN, SOON, Project, entries, processes
from tests.sandbox import CANNOT

SANDBOX = str(Path(__file__).parents[1] / "sandbox.py")
NOBODY = 65534
BECOME = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
INI = "[pytest]\nlakebranch_base = sql:schema.sql\nlakebranch_env = DATABASE_URL\n"
SUITE = """
import os, signal, pathlib, psycopg, pytest

KEPT = []

def count(conn):
    return conn.execute("select count(*) from item").fetchone()[0]

@pytest.mark.parametrize("number", range(3))
def test_write(lakebranch, number):
    with lakebranch.connect() as conn:
        conn.execute("insert into item (name) select 'more' from generate_series(1, 100)")
    with lakebranch.connect() as conn:
        assert count(conn) == 102

@pytest.mark.parametrize("number", range(2))
def test_leaves_open(lakebranch, number):
    KEPT.append(psycopg.connect(os.environ["DATABASE_URL"]))
    assert count(KEPT[-1]) == 2
    KEPT[-1].execute("delete from item")

def test_fork(lakebranch):
    with lakebranch.fork() as child, child.connect() as conn:
        assert count(conn) == 2

def test_kill(lakebranch_conn):
    stat = pathlib.Path(f"/proc/{lakebranch_conn.info.backend_pid}/stat").read_text()
    os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
    pytest.raises(psycopg.OperationalError, lakebranch_conn.execute, "select pg_sleep(100)")

@pytest.mark.destructive
def test_destroy(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("drop table item")

def test_read(lakebranch_conn):
    assert count(lakebranch_conn) == 2
"""
PASSES = "9 passed, 1 error"
"""All of them; and the one that killed its server is told so."""


def sandboxed(*refused: str) -> list[str]:
    """What goes before a command to have it run where these are refused; skips where that cannot be had."""
    before = [sys.executable, SANDBOX, ",".join(refused)]
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode == CANNOT:
        pytest.skip("needs seccomp filters")
    return before


def suite(directory: Path) -> Path:
    """A project with tests of every kind, in ``directory``."""
    directory.mkdir(exist_ok=True)
    for name, text in {"pytest.ini": INI, "schema.sql": SCHEMA, "test_it.py": SUITE}.items():
        (directory / name).write_text(text)
    return directory


def run(
    directory: Path, *before: str, options: tuple[str, ...] = (), env: dict[str, str] | None = None, python: str = ""
) -> str:
    """Run pytest there; what it said."""
    command = [*before, python or sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=150, env=env)
    return done.stdout + done.stderr


def python_of_everybody(environment: dict[str, str]) -> str:
    """A Python that an ordinary user can run: this one, or else the system's with the packages of this one."""
    look = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import psycopg, pytest, xdist'], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):
        words = [*BECOME, python, "-c", look]
        if subprocess.run(words, check=False, env=environment, cwd="/", capture_output=True).returncode == 0:
            return python
    pytest.skip("needs a Python that any user can run")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that belongs to nobody, below ones that are open to all."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become an ordinary user")
    made = Path(tempfile.mkdtemp(prefix="lbn", dir="/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"))
    os.chown(made, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_an_ordinary_user_without_user_namespaces(place: Path, workers: str) -> None:
    """As in most containers that do not run as root: branches are copies, everything works, and nothing is left."""
    project = suite(place / "project")
    packages = (str(Path(package.__file__).parents[1]) for package in (pytest_lakebranch, psycopg))
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONPATH": ":".join(packages)}
    python = python_of_everybody(environment)
    before = [*BECOME, python, *sandboxed("namespaces")[1:]]
    said = run(project, *before, options=("-n", workers), env=environment, python=python)
    assert PASSES in said, said
    assert "storage copy" in said
    home = place / ".cache" / "pytest-lakebranch"
    assert (entries(home / "runs"), processes(home)) == ([], [])
    assert "base from the cache" in run(project, *before, options=("-k", "read"), env=environment, python=python)


@pytest.mark.parametrize("refused", ["pidfd", pytest.param("pidfd-denied", marks=pytest.mark.soak)])
def test_without_pidfds(project: Project, refused: str) -> None:
    """Old kernels and strict sandboxes: clients are ended, branches rewound, forked and replaced all the same."""
    said = run(suite(project.path), *sandboxed(refused), options=("-n", "2"))
    assert PASSES in said, said
    assert "5 rewind" in said


@pytest.mark.soak
def test_deaths_are_noticed_without_pidfds(project: Project, sockets: Path) -> None:
    """A killed worker's branch is taken back and its test fails; after kill -9 of the controller nothing is left."""
    project.write(
        schema_dot_sql=SCHEMA,
        test_it="""
        import os, pathlib, signal

        def test_dies(lakebranch_run):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_next(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
            pathlib.Path("running").write_text("yes")
            lakebranch_conn.execute("select pg_sleep(100)")
        """,
    )
    project.ini(lakebranch_base="sql:schema.sql")
    controller = project.start("-n", "1", before=sandboxed("pidfd"))
    project.wait_for("running")
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    assert "[gw0] node down" in project.output
    left = poll(lambda: None if processes(project.home) else True, deadline=Deadline(SOON))
    assert left, processes(project.home)
    assert poll(lambda: None if entries(project.home / "runs") + entries(sockets) else True, deadline=Deadline(SOON))
