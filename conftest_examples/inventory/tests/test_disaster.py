"""Destructive tests: each has a disposable server, may do all that its provider allows, and may leave it in ruins.

Every one of them first finds a sound database, and runs more than once: so whichever comes later shows that the
earlier ones did no harm.
"""

import os
import platform
import signal
import subprocess
import time
from pathlib import Path

import psycopg
import pytest
from inventory import orders, reports, stock
from inventory.db import connect

pytestmark = pytest.mark.destructive

twice = pytest.mark.parametrize("time", [1, 2])


@pytest.fixture(autouse=True)
def _sound(lakebranch):
    """What every test here starts with: complete data, and an application that works."""
    with lakebranch.connect() as conn:
        assert conn.execute("SELECT count(*) FROM units").fetchone() == (30_000,)
    assert reports.out_of_step() == 0


@twice
def test_drop_what_can_be_dropped(lakebranch, time):
    with lakebranch.connect(autocommit=True) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT FROM products")
        with pytest.raises(psycopg.errors.ObjectInUse):
            conn.execute("DROP DATABASE inventory")  # not while we are in it
        conn.execute("CREATE DATABASE elsewhere")
    with lakebranch.connect(dbname="elsewhere", autocommit=True) as conn:
        conn.execute("DROP DATABASE inventory WITH (FORCE)")
        conn.execute("DROP ROLE inventory")
    with pytest.raises(psycopg.OperationalError):
        lakebranch.connect()


@twice
def test_corrupt_the_books(lakebranch, time):
    """Who owns a table can switch its rules off; the report has to notice what was done meanwhile."""
    with lakebranch.connect() as conn:
        conn.execute("ALTER TABLE stock_movements DISABLE TRIGGER USER")
        conn.execute("DELETE FROM stock_movements WHERE movement_id % 100 = 0")
    assert reports.out_of_step() > 0


@twice
def test_kill_the_server_in_the_middle_of_a_transaction(lakebranch, time):
    if lakebranch.provider != "local":
        pytest.skip("the server is a process of another machine")

    def work() -> None:
        with connect() as conn, conn.transaction():
            orders.reserve(conn, orders.place(conn, 1, {"P00001": 1}))
            os.kill(parent_of(conn.info.backend_pid), signal.SIGKILL)
            use_until_it_breaks(conn)

    with pytest.raises(psycopg.OperationalError):
        work()
    with pytest.raises(psycopg.OperationalError):
        connect()


@twice
def test_lose_the_connection_in_the_middle_of_a_transaction(lamp, lakebranch, time):
    """The client is cut off, the server lives: what was not committed is gone, and the application goes on."""

    def work() -> None:
        with connect() as conn, conn.transaction():
            stock.receive(conn, lamp, into="H0101", quantity=5)
            with lakebranch.connect(autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])
            conn.execute("SELECT 1")

    with pytest.raises(psycopg.OperationalError):
        work()
    with connect() as conn:
        assert stock.on_hand(conn, lamp, "H0101") == 0


def parent_of(pid: int) -> int:
    """The parent of a server process: PostgreSQL's postmaster."""
    if platform.system() == "Linux":
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))


def use_until_it_breaks(conn: psycopg.Connection) -> None:
    """A server process outlives its postmaster for a moment."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        conn.execute("SELECT 1")
