"""Valuable goods that are tracked one by one, by the code on their label."""

from datetime import date

from inventory.db import Connection
from inventory.errors import UnknownError
from inventory.stock import product_id


def register(conn: Connection, sku: str, code: str, received_on: date) -> int:
    """Take a unit into the books. Returns its number."""
    row = conn.execute(
        "INSERT INTO units (product_id, inventory_code, received_on) VALUES (%s, %s, %s) RETURNING unit_id",
        [product_id(conn, sku), code, received_on],
    ).fetchone()
    assert row is not None
    return row[0]


def find(conn: Connection, code: str) -> tuple[int, str]:
    """The number and the SKU of the unit with this code."""
    row = conn.execute(
        "SELECT unit_id, sku FROM units JOIN products USING (product_id) WHERE inventory_code = %s", [code]
    ).fetchone()
    if row is None:
        raise UnknownError(f"there is no unit {code}")
    return row[0], row[1]
