"""What else there is: rolled back tests, a reset, forks, further branches, a branch for the whole run."""

import psycopg
import pytest
from inventory import orders, stock


def pieces(conn):
    return conn.execute("SELECT sum(on_hand) FROM stock").fetchone()[0]


@pytest.mark.lakebranch(isolation="rollback")
@pytest.mark.parametrize("time", [1, 2])
def test_rolled_back(lakebranch_conn, time):
    """The cheap tier: one transaction on the worker's branch, undone at the end."""
    assert stock.on_hand(lakebranch_conn, "P00001", "H0101") == 0
    stock.receive(lakebranch_conn, "P00001", into="H0101", quantity=5)
    orders.reserve(lakebranch_conn, orders.place(lakebranch_conn, 1, {"P00001": 5}))
    assert stock.on_hand(lakebranch_conn, "P00001", "H0101") == 5


@pytest.mark.lakebranch(isolation="rollback")
def test_a_rolled_back_test_cannot_commit(lakebranch_conn):
    stock.receive(lakebranch_conn, "P00001", into="H0101", quantity=5)
    with pytest.raises(psycopg.ProgrammingError):
        lakebranch_conn.commit()


def test_reset(lakebranch):
    """Back to the state in which the test got its branch, as often as it likes."""
    with lakebranch.connect() as conn:
        before = pieces(conn)
    for _ in range(2):
        with lakebranch.connect() as conn:
            conn.execute("TRUNCATE stock CASCADE")
        lakebranch.reset()
        with lakebranch.connect() as conn:
            assert pieces(conn) == before


def test_fork(lakebranch):
    """A child starts from the present state of its parent; from then on they know nothing of each other."""
    with lakebranch.connect() as conn:
        stock.receive(conn, "P00001", into="H0101", quantity=5)
    with lakebranch.fork() as child:
        with child.connect() as conn:
            assert stock.on_hand(conn, "P00001", "H0101") == 5
            conn.execute("TRUNCATE stock CASCADE")
        with lakebranch.connect() as conn:
            assert stock.on_hand(conn, "P00001", "H0101") == 5


def test_try_two_ways(lakebranch, lakebranch_factory):
    """Two branches of one base, a design on each: which of them lets the report use the index alone?"""
    narrow, covering = lakebranch_factory(), lakebranch_factory()
    with narrow.connect() as conn:
        conn.execute("CREATE INDEX units_by_day ON units (received_on)")
    with covering.connect() as conn:
        conn.execute("CREATE INDEX units_by_day ON units (received_on) INCLUDE (product_id)")
    query = "EXPLAIN SELECT product_id FROM units WHERE received_on = '2024-02-29'"
    plans = []
    for branch in (narrow, covering):
        with branch.connect(autocommit=True) as conn:
            conn.execute("VACUUM units")
            plans.append("\n".join(line for (line,) in conn.execute(query)))
    assert ["Index Only Scan" in plan for plan in plans] == [False, True]


@pytest.mark.lakebranch(isolation="run")
@pytest.mark.parametrize("table", ["customers", "orders", "products", "suppliers", "units"])
def test_smoke(lakebranch_conn, table):
    """One branch for all workers together: enough for tests that only look."""
    assert lakebranch_conn.execute(f"SELECT count(*) > 0 FROM {table}").fetchone() == (True,)
