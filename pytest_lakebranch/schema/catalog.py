"""Reading the schema of a database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.schema import queries
from pytest_lakebranch.schema.model import Schema, Thing

if TYPE_CHECKING:
    import psycopg

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_QUALIFIED = "SET LOCAL search_path = ''"
"""With an empty path PostgreSQL's own functions write every name with its schema (ruleutils.c)."""
_SMALLEST = 3
"""Columns of a query that are no facts."""


def read(connection: psycopg.Connection[Any]) -> Schema:
    """The schema of a connection's database, as of one moment; any role can read it, and nothing is written.

    What belongs to an extension or to PostgreSQL itself is left out. ``connection`` is an autocommitting one.
    """
    connection.execute(_BEGIN)
    try:
        return within(connection)
    finally:
        connection.execute("ROLLBACK")


def within(connection: psycopg.Connection[Any]) -> Schema:
    """The schema as the open transaction of ``connection`` sees it; its search path is empty from then on."""
    connection.execute(_QUALIFIED)
    return Schema([thing for query in queries.ALL for thing in _things(connection, query)])


def _things(connection: psycopg.Connection[Any], query: str) -> Iterator[Thing]:
    cursor = connection.execute(query)
    words = [column.name.replace("_", " ") for column in cursor.description or ()][_SMALLEST:]
    for kind, name, of, *values in cursor:
        row = dict(zip(words, values, strict=True))
        follows = row.pop("follows", None) or ()
        yield Thing(kind, name, dict(_facts(row)), of, tuple(follows))


def _facts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parentage = row.pop("parentage", None)
    for word, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{word} {key}", text) for key, text in sorted(value.items()))
        elif value not in (None, ""):
            yield (parentage or word) if word == "parents" else word, str(value)
