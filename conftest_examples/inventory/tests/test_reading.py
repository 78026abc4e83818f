"""Tests that only read share their worker's branch: no branch has to be made for them."""

import pytest
from inventory import reports, stock
from inventory.db import connect
from inventory.errors import UnknownError

pytestmark = pytest.mark.lakebranch(isolation="worker")


def test_a_year_of_trade_is_there(lakebranch_conn):
    rows = lakebranch_conn.execute(
        "SELECT (SELECT count(*) FROM units), (SELECT count(*) FROM orders), (SELECT count(*) FROM locations)"
    ).fetchone()
    assert rows == (30_000, 9_000, 720)


def test_stock_is_what_the_movements_add_up_to():
    """The marker alone takes the lease: this test goes through the application only."""
    assert reports.out_of_step() == 0


def test_reservations_are_what_the_stock_says(lakebranch_conn):
    (apart,) = lakebranch_conn.execute(
        "SELECT count(*) FROM stock LEFT JOIN (SELECT product_id, location_id, sum(quantity) AS kept "
        "FROM reservations GROUP BY product_id, location_id) AS r USING (product_id, location_id) "
        "WHERE reserved <> coalesce(kept, 0)"
    ).fetchone()
    assert apart == 0


def test_stock_value_by_warehouse():
    values = reports.stock_value()
    assert [value.warehouse for value in values] == ["Gdańsk", "London", "Rotterdam"]
    assert all(value.pieces > 10_000 and value.value > 0 for value in values)


def test_shortages_come_worst_first():
    shortages = reports.shortages()
    assert shortages
    missing = [shortage.reorder_level - shortage.available for shortage in shortages]
    assert missing == sorted(missing, reverse=True)
    assert missing[-1] > 0


def test_stock_take_sheet_agrees_with_the_books():
    sheet = reports.stock_take_sheet("L0307")
    assert sheet
    with connect() as conn:
        assert all(stock.on_hand(conn, sku, "L0307") == pieces for sku, pieces in sheet.items())


def test_the_new_warehouse_is_empty():
    assert reports.stock_take_sheet("H0101") == {}


def test_unknown_product():
    with connect() as conn, pytest.raises(UnknownError, match="no product NESSIE"):
        stock.available(conn, "NESSIE")
