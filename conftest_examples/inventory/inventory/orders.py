"""Orders are placed, get goods reserved, and are shipped; or cancelled on the way."""

from collections.abc import Mapping

from inventory.db import Connection
from inventory.errors import OutOfStockError, UnknownError, WrongStatusError
from inventory.stock import Movement, book, product_id


def place(conn: Connection, customer: int, lines: Mapping[str, int]) -> int:
    """Take an order for pieces by SKU, at today's prices. Returns its number."""
    with conn.transaction():
        row = conn.execute("INSERT INTO orders (customer_id) VALUES (%s) RETURNING order_id", [customer]).fetchone()
        assert row is not None
        for sku, quantity in lines.items():
            conn.execute(
                "INSERT INTO order_lines (order_id, product_id, quantity, unit_price) "
                "SELECT %s, product_id, %s, unit_price FROM products WHERE product_id = %s",
                [row[0], quantity, product_id(conn, sku)],
            )
        return row[0]


def reserve(conn: Connection, order: int) -> None:
    """Keep goods for the whole order, or none of them.

    Two orders that want the same pieces meet at the row locks: the second one waits, and sees what the first one left.
    """
    with conn.transaction():
        _expect(conn, order, "open")
        free = _lock_free_stock(conn, order)
        lines = conn.execute(
            "SELECT product_id, sku, quantity FROM order_lines JOIN products USING (product_id) WHERE order_id = %s",
            [order],
        ).fetchall()
        for product, sku, quantity in lines:
            missing = quantity
            for location, pieces in free.get(product, []):
                taken = min(missing, pieces)
                if taken:
                    _keep(conn, order, product, location, taken)
                missing -= taken
            if missing:
                raise OutOfStockError(f"order {order}: {missing} of {quantity} pieces of {sku} are missing")
        conn.execute("UPDATE orders SET status = 'reserved' WHERE order_id = %s", [order])


def ship(conn: Connection, order: int) -> None:
    """Send what was reserved."""
    with conn.transaction():
        _expect(conn, order, "reserved")
        for product, location, quantity in _release(conn, order):
            book(conn, Movement("shipment", product, quantity, source=location, note=f"order {order}"))
        conn.execute("UPDATE orders SET status = 'shipped' WHERE order_id = %s", [order])


def cancel(conn: Connection, order: int) -> None:
    """Give back what was reserved; an order that was shipped cannot be cancelled."""
    with conn.transaction():
        _expect(conn, order, "open", "reserved")
        _release(conn, order)
        conn.execute("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", [order])


def status(conn: Connection, order: int) -> str:
    """Where an order stands."""
    row = conn.execute("SELECT status FROM orders WHERE order_id = %s", [order]).fetchone()
    if row is None:
        raise UnknownError(f"there is no order {order}")
    return row[0]


def _expect(conn: Connection, order: int, *allowed: str) -> None:
    """Lock the order, and see to it that it stands where it must."""
    conn.execute("SELECT FROM orders WHERE order_id = %s FOR UPDATE", [order])
    found = status(conn, order)
    if found not in allowed:
        raise WrongStatusError(f"order {order} is {found}, not {' or '.join(allowed)}")


def _lock_free_stock(conn: Connection, order: int) -> dict[int, list[tuple[int, int]]]:
    """Lock all stock of the order's products; returns (location, free pieces) by product."""
    rows = conn.execute(
        "SELECT product_id, location_id, on_hand - reserved FROM stock JOIN order_lines USING (product_id) "
        "WHERE order_id = %s ORDER BY product_id, location_id FOR UPDATE OF stock",
        [order],
    ).fetchall()
    free: dict[int, list[tuple[int, int]]] = {}
    for product, location, pieces in rows:
        free.setdefault(product, []).append((location, pieces))
    return free


def _keep(conn: Connection, order: int, product: int, location: int, quantity: int) -> None:
    conn.execute(
        "UPDATE stock SET reserved = reserved + %s WHERE product_id = %s AND location_id = %s",
        [quantity, product, location],
    )
    conn.execute(
        "INSERT INTO reservations (order_id, product_id, location_id, quantity) VALUES (%s, %s, %s, %s)",
        [order, product, location, quantity],
    )


def _release(conn: Connection, order: int) -> list[tuple[int, int, int]]:
    """End the order's reservations; returns (product, location, quantity) of each, in locking order."""
    kept: list[tuple[int, int, int]] = conn.execute(
        "SELECT product_id, location_id, quantity FROM reservations JOIN stock USING (product_id, location_id) "
        "WHERE order_id = %s ORDER BY product_id, location_id FOR UPDATE OF stock",
        [order],
    ).fetchall()
    for product, location, quantity in kept:
        conn.execute(
            "UPDATE stock SET reserved = reserved - %s WHERE product_id = %s AND location_id = %s",
            [quantity, product, location],
        )
    conn.execute("DELETE FROM reservations WHERE order_id = %s", [order])
    return kept
