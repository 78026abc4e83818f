"""What the office wants to know.  Reports go through a SQLAlchemy engine, made at import, whose pool lives on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["SQLALCHEMY_URL"], pool_size=2)


@dataclass(frozen=True)
class Value:
    """What lies in a warehouse."""

    warehouse: str
    pieces: int
    value: Decimal


@dataclass(frozen=True)
class Shortage:
    """A product to order again."""

    sku: str
    available: int
    reorder_level: int


def stock_value() -> Sequence[Value]:
    """Pieces and value by warehouse, as of the last :func:`refresh`."""
    with engine.connect() as conn:
        rows = conn.execute(text("SELECT warehouse, pieces, value FROM stock_value ORDER BY warehouse"))
        return [Value(*row) for row in rows]


def refresh() -> None:
    """Bring :func:`stock_value` up to date; readers are not held up meanwhile."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("REFRESH MATERIALIZED VIEW CONCURRENTLY stock_value"))


def shortages() -> Sequence[Shortage]:
    """Products with fewer free pieces than their reorder level, the worst first."""
    query = """
        SELECT sku, available, reorder_level FROM available_stock
        WHERE available < reorder_level ORDER BY available - reorder_level, sku
    """
    with engine.connect() as conn:
        return [Shortage(*row) for row in conn.execute(text(query))]


def stock_take_sheet(location: str) -> dict[str, int]:
    """What should lie at a location, by SKU: the sheet for the one who counts."""
    query = """
        SELECT sku, on_hand FROM stock JOIN products USING (product_id) JOIN locations USING (location_id)
        WHERE code = :location AND on_hand > 0 ORDER BY sku
    """
    with engine.connect() as conn:
        return {row.sku: row.on_hand for row in conn.execute(text(query), {"location": location})}


def out_of_step() -> int:
    """In how many places the stock is not what the movements add up to. Anything but 0 is a bug."""
    query = """
        WITH booked AS (
            SELECT product_id, location_id, sum(quantity) AS pieces FROM (
                SELECT product_id, target_id AS location_id, quantity FROM stock_movements
                UNION ALL
                SELECT product_id, source_id, -quantity FROM stock_movements
            ) AS entries WHERE location_id IS NOT NULL GROUP BY product_id, location_id
        )
        SELECT count(*) FROM stock FULL JOIN booked USING (product_id, location_id)
        WHERE on_hand IS DISTINCT FROM pieces
    """
    with engine.connect() as conn:
        return conn.execute(text(query)).scalar_one()
