"""Runs the files of migrations/."""

from pathlib import Path

from inventory.db import Connection

MIGRATIONS = Path(__file__).parent.parent / "migrations"


def apply(conn: Connection, name: str) -> None:
    """Run one migration: all of it or nothing."""
    with conn.transaction():
        conn.execute((MIGRATIONS / name).read_bytes())


def backfill(conn: Connection, name: str, *, upto: int, batch: int = 5_000) -> int:
    """Run one migration for the keys 1 to ``upto``, a batch at a time. Returns how many rows it changed."""
    changed = 0
    for first in range(1, upto + 1, batch):
        with conn.transaction():
            keys = {"first": first, "last": min(first + batch - 1, upto)}
            changed += conn.execute((MIGRATIONS / name).read_bytes(), keys).rowcount
    return changed
