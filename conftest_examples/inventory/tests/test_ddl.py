"""Tests may change the schema: it is theirs."""

import psycopg
import pytest
from inventory import reports, stock
from inventory.db import connect


@pytest.mark.parametrize("time", [1, 2])
def test_add_a_table(lakebranch, time):
    """It can be created in each test anew, because each starts from the base."""
    with lakebranch.connect() as conn:
        conn.execute("CREATE TABLE hazards (product_id integer PRIMARY KEY REFERENCES products, class text NOT NULL)")
        conn.execute("INSERT INTO hazards SELECT product_id, 'fragile' FROM products WHERE attributes ? 'weight_g'")
        (hazards,) = conn.execute("SELECT count(*) FROM hazards").fetchone()
    assert hazards == 1_200


def test_build_an_index_concurrently(lakebranch):
    """It cannot run in a transaction: a test that is rolled back could not try this."""
    with lakebranch.connect(autocommit=True) as conn:
        conn.execute("CREATE INDEX CONCURRENTLY orders_by_day ON orders (ordered_at)")
        plan = conn.execute("EXPLAIN SELECT FROM orders WHERE ordered_at < '2024-05-02'").fetchall()
    assert any("orders_by_day" in line for (line,) in plan)


@pytest.mark.lakebranch
def test_the_application_notices_a_missing_column():
    with connect() as conn:
        conn.execute("ALTER TABLE locations DROP COLUMN capacity")
    with connect() as conn, pytest.raises(psycopg.errors.UndefinedColumn, match="capacity"):
        stock.receive(conn, "P00001", into="H0101", quantity=1)


@pytest.mark.lakebranch
def test_truncate_the_biggest_tables():
    with connect() as conn:
        conn.execute("TRUNCATE stock_movements, stock CASCADE")
    reports.refresh()
    assert reports.stock_value() == []
    assert reports.out_of_step() == 0
