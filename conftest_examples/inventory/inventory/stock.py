"""Goods come in, move, and are counted.

Every function works in the caller's transaction or opens one of its own, and all of them take their locks in the same
order (locations by number, then stock rows by product and location), so that no two of them can wait for each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from inventory.db import Connection
from inventory.errors import LocationFullError, OutOfStockError, UnknownError


@dataclass(frozen=True)
class Movement:
    """A row of the ledger, by the numbers of product and locations."""

    kind: Literal["receipt", "move", "shipment", "adjustment"]
    product: int
    quantity: int
    source: int | None = None
    target: int | None = None
    note: str = ""


def receive(conn: Connection, sku: str, *, into: str, quantity: int) -> None:
    """Book goods that arrived."""
    with conn.transaction():
        product = product_id(conn, sku)
        locations = lock_locations(conn, [into])
        _check_room(conn, into, quantity)
        book(conn, Movement("receipt", product, quantity, target=locations[into]))


def move(conn: Connection, sku: str, *, source: str, target: str, quantity: int) -> None:
    """Carry goods from one location to another; reserved pieces stay where they are."""
    with conn.transaction():
        product = product_id(conn, sku)
        locations = lock_locations(conn, [source, target])
        _check_room(conn, target, quantity)
        free = _lock_stock(conn, product, locations.values()).get(locations[source], 0)
        if free < quantity:
            raise OutOfStockError(f"{sku}: {free} of {quantity} pieces are free at {source}")
        book(conn, Movement("move", product, quantity, source=locations[source], target=locations[target]))


def count(conn: Connection, location: str, counted: Mapping[str, int]) -> dict[str, int]:
    """Book the result of a stock-take; what was not counted is missing. Returns the differences by SKU."""
    with conn.transaction():
        place = lock_locations(conn, [location])[location]
        expected = _lock_location(conn, place)
        differences: dict[str, int] = {}
        for sku in sorted({*counted, *expected}):
            found = counted.get(sku, 0)
            pieces, reserved = expected.get(sku, (0, 0))
            if found < reserved:
                raise OutOfStockError(
                    f"{reserved} pieces of {sku} are reserved at {location}, but {found} were counted"
                )
            if found != pieces:
                differences[sku] = found - pieces
        for sku, difference in differences.items():
            side = "target" if difference > 0 else "source"
            product = product_id(conn, sku)
            book(conn, Movement("adjustment", product, abs(difference), note="stock-take", **{side: place}))
        return differences


def on_hand(conn: Connection, sku: str, location: str) -> int:
    """How many pieces of a product lie at a location."""
    row = conn.execute(
        "SELECT on_hand FROM stock JOIN products USING (product_id) JOIN locations USING (location_id) "
        "WHERE sku = %s AND code = %s",
        [sku, location],
    ).fetchone()
    return row[0] if row else 0


def available(conn: Connection, sku: str) -> int:
    """How many pieces nobody has reserved, over all locations."""
    row = conn.execute("SELECT available FROM available_stock WHERE sku = %s", [sku]).fetchone()
    if row is None:
        raise UnknownError(f"there is no product {sku}")
    return row[0]


def product_id(conn: Connection, sku: str) -> int:
    """The number behind a SKU."""
    row = conn.execute("SELECT product_id FROM products WHERE sku = %s", [sku]).fetchone()
    if row is None:
        raise UnknownError(f"there is no product {sku}")
    return row[0]


def lock_locations(conn: Connection, codes: Sequence[str]) -> dict[str, int]:
    """Lock locations against other movements, always in the same order. Returns their numbers by code.

    NO KEY UPDATE and not UPDATE: a transaction that holds stock rows may still refer to a locked location.
    """
    rows = conn.execute(
        "SELECT code, location_id FROM locations WHERE code = ANY(%s) ORDER BY location_id FOR NO KEY UPDATE",
        [list(codes)],
    ).fetchall()
    locations: dict[str, int] = dict(rows)
    for code in codes:
        if code not in locations:
            raise UnknownError(f"there is no location {code}")
    return locations


def _lock_stock(conn: Connection, product: int, locations: Iterable[int]) -> dict[int, int]:
    """Lock what lies of a product at some locations, in order. Returns the free pieces by location."""
    rows = conn.execute(
        "SELECT location_id, on_hand - reserved FROM stock WHERE product_id = %s AND location_id = ANY(%s) "
        "ORDER BY location_id FOR UPDATE",
        [product, list(locations)],
    ).fetchall()
    return dict(rows)


def _lock_location(conn: Connection, location: int) -> dict[str, tuple[int, int]]:
    """Lock all that lies at a location, in order. Returns the pieces, and the reserved ones, by SKU."""
    rows = conn.execute(
        "SELECT sku, on_hand, reserved FROM stock JOIN products USING (product_id) "
        "WHERE location_id = %s ORDER BY product_id FOR UPDATE OF stock",
        [location],
    ).fetchall()
    return {sku: (pieces, reserved) for sku, pieces, reserved in rows}


def _check_room(conn: Connection, location: str, quantity: int) -> None:
    row = conn.execute(
        "SELECT capacity - coalesce(sum(on_hand), 0) FROM locations LEFT JOIN stock USING (location_id) "
        "WHERE code = %s GROUP BY location_id",
        [location],
    ).fetchone()
    room = row[0] if row else 0
    if room < quantity:
        raise LocationFullError(f"{location} has room for {room} pieces, not for {quantity}")


def book(conn: Connection, movement: Movement) -> None:
    """Write a movement into the ledger; the trigger changes the stock."""
    conn.execute(
        "INSERT INTO stock_movements (kind, product_id, quantity, source_id, target_id, note) "
        "VALUES (%(kind)s, %(product)s, %(quantity)s, %(source)s, %(target)s, %(note)s)",
        asdict(movement),
    )
