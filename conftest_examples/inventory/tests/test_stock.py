"""Tests that write: whatever they commit, the next test starts from the base again."""

import psycopg
import pytest
from inventory import orders, reports, stock
from inventory.db import connect
from inventory.errors import LocationFullError, OutOfStockError, UnknownError


def test_receive(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=5)
        stock.receive(conn, lamp, into="H0101", quantity=7)
    with connect() as conn:
        assert stock.on_hand(conn, lamp, "H0101") == 12
    assert reports.out_of_step() == 0


def test_receive_refuses_what_does_not_fit(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=490)
        with pytest.raises(LocationFullError, match="room for 10 pieces, not for 11"):
            stock.receive(conn, lamp, into="H0101", quantity=11)
        stock.receive(conn, lamp, into="H0101", quantity=10)


def test_move(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=5)
        stock.move(conn, lamp, source="H0101", target="H0102", quantity=3)
    with connect() as conn:
        assert stock.on_hand(conn, lamp, "H0101") == 2
        assert stock.on_hand(conn, lamp, "H0102") == 3


def test_move_refuses_more_than_there_is(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=5)
        with pytest.raises(OutOfStockError, match="5 of 6 pieces are free at H0101"):
            stock.move(conn, lamp, source="H0101", target="H0102", quantity=6)
        with pytest.raises(UnknownError, match="no location X9999"):
            stock.move(conn, lamp, source="H0101", target="X9999", quantity=1)
        assert stock.on_hand(conn, lamp, "H0101") == 5


def test_stock_take_books_the_differences(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=5)
        stock.receive(conn, "P00001", into="H0101", quantity=8)
        found = {lamp: 4, "P00002": 1}
        assert stock.count(conn, "H0101", found) == {lamp: -1, "P00001": -8, "P00002": 1}
    assert reports.stock_take_sheet("H0101") == found
    assert reports.out_of_step() == 0


def test_stock_take_cannot_lose_what_is_reserved(lamp):
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=5)
        orders.reserve(conn, orders.place(conn, 1, {lamp: 3}))
        with pytest.raises(OutOfStockError, match="3 pieces of LAMP are reserved at H0101, but 2 were counted"):
            stock.count(conn, "H0101", {lamp: 2})
        assert stock.on_hand(conn, lamp, "H0101") == 5


@pytest.mark.lakebranch
@pytest.mark.parametrize("time", [1, 2, 3])
def test_the_pool_outlives_the_branch(time):
    """reports.engine was made at import; its pooled connections always lead to the branch of the running test."""
    before = {value.warehouse for value in reports.stock_value()}
    assert "Hamburg" not in before
    with connect() as conn:
        stock.receive(conn, "P00001", into="H0101", quantity=1)
    reports.refresh()
    assert {value.warehouse for value in reports.stock_value()} == before | {"Hamburg"}


def test_the_ledger_cannot_be_rewritten(lakebranch_conn):
    with pytest.raises(psycopg.errors.RestrictViolation, match="rows are added, never changed"):
        lakebranch_conn.execute("DELETE FROM stock_movements WHERE movement_id = 1")


def test_the_application_is_not_a_superuser(lakebranch_conn):
    role = lakebranch_conn.execute("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    assert role == ("inventory", False)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        lakebranch_conn.execute("COPY products TO '/tmp/products'")
