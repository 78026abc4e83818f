"""Fixtures of the stock application.  DATABASE_URL is set already when this imports the application."""

import pytest
from inventory.db import connect


@pytest.fixture
def lamp(lakebranch) -> str:
    """The SKU of a product that is new in this test's branch: nothing of it in stock."""
    with connect() as conn:
        conn.execute(
            "INSERT INTO products (sku, name, category_id, supplier_id, unit_price, reorder_level) "
            "VALUES ('LAMP', 'Reading lamp', 1, 1, 49.90, 10)"
        )
    return "LAMP"


@pytest.fixture(scope="session")
def season(lakebranch_worker) -> str:
    """The name of next season's price list, which a worker's branch gets once: all is one euro dearer.

    A test that asks for this fixture gets a branch forked from the worker's; one that does not never sees the list.
    """
    with lakebranch_worker.connect() as conn:
        conn.execute("INSERT INTO price_lists (name, valid) VALUES ('season 2025', '[2025-01-01,2026-01-01)')")
        conn.execute(
            "INSERT INTO prices SELECT new.price_list_id, product_id, unit_price + 1 "
            "FROM products, price_lists AS new WHERE new.name = 'season 2025'"
        )
    return "season 2025"
