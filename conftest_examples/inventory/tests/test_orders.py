"""The life of an order."""

import psycopg
import pytest
from inventory import orders, reports, stock
from inventory.db import connect
from inventory.errors import OutOfStockError, UnknownError, WrongStatusError


@pytest.fixture
def ten_lamps(lamp):
    """Seven pieces in one bay, three in another."""
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=7)
        stock.receive(conn, lamp, into="H0102", quantity=3)
    return lamp


def test_reserve_and_ship(ten_lamps):
    with connect() as conn:
        order = orders.place(conn, 1, {ten_lamps: 8, "P00001": 1})
        orders.reserve(conn, order)
        assert stock.available(conn, ten_lamps) == 2
        orders.ship(conn, order)
        assert orders.status(conn, order) == "shipped"
    with connect() as conn:
        assert stock.on_hand(conn, ten_lamps, "H0101") == 0
        assert stock.on_hand(conn, ten_lamps, "H0102") == 2
    assert reports.out_of_step() == 0


def test_an_order_is_reserved_whole_or_not_at_all(ten_lamps):
    with connect() as conn:
        order = orders.place(conn, 1, {"P00001": 1, ten_lamps: 11})
        before = stock.available(conn, "P00001")
        with pytest.raises(OutOfStockError, match="1 of 11 pieces of LAMP are missing"):
            orders.reserve(conn, order)
        assert stock.available(conn, "P00001") == before
        assert orders.status(conn, order) == "open"


def test_reserved_goods_stay_where_they_are(ten_lamps):
    with connect() as conn:
        orders.reserve(conn, orders.place(conn, 1, {ten_lamps: 5}))
        with pytest.raises(OutOfStockError, match="2 of 3 pieces are free"):
            stock.move(conn, ten_lamps, source="H0101", target="H0103", quantity=3)


def test_cancel_gives_back(ten_lamps):
    with connect() as conn:
        order = orders.place(conn, 1, {ten_lamps: 10})
        orders.reserve(conn, order)
        assert stock.available(conn, ten_lamps) == 0
        orders.cancel(conn, order)
        assert stock.available(conn, ten_lamps) == 10


def test_no_way_back_from_shipped(ten_lamps):
    with connect() as conn:
        order = orders.place(conn, 1, {ten_lamps: 1})
        with pytest.raises(WrongStatusError, match="is open, not reserved"):
            orders.ship(conn, order)
        orders.reserve(conn, order)
        orders.ship(conn, order)
        with pytest.raises(WrongStatusError, match="is shipped, not open or reserved"):
            orders.cancel(conn, order)
        with pytest.raises(UnknownError):
            orders.reserve(conn, order + 1)


@pytest.mark.lakebranch
@pytest.mark.parametrize("clerk", ["Ada", "Grace"])
def test_each_clerk_ships_the_same_order(clerk):
    """It can be shipped once only; but each test has a database of its own, in which nobody has shipped it yet."""
    with connect() as conn:
        (order,) = conn.execute("SELECT min(order_id) FROM orders WHERE status = 'reserved'").fetchone()
        orders.ship(conn, order)
    with connect() as conn, pytest.raises(WrongStatusError, match="is shipped"):
        orders.ship(conn, order)


def test_the_database_refuses_it_too(lakebranch_conn):
    """The rule holds for those who do not go through the application."""
    with pytest.raises(psycopg.errors.CheckViolation, match="is shipped, it cannot become open"):
        lakebranch_conn.execute("UPDATE orders SET status = 'open' WHERE status = 'shipped'")
