"""Whether the rows of two databases are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pytest_lakebranch.schema.model import Schema

Columns = Mapping[str, tuple[str, ...]]
"""Quoted names of columns by the qualified name of their table."""


def columns_of(schema: Schema) -> dict[str, tuple[str, ...]]:
    """The columns of all tables that hold rows themselves."""
    tables = {thing.name for thing in schema if thing.kind == "table" and "partitioned" not in thing.facts}
    found: dict[str, list[str]] = {name: [] for name in sorted(tables)}
    for thing in schema:
        if thing.kind == "column" and thing.of in found:
            found[thing.of].append(thing.name.removeprefix(f"{thing.of}."))
    return {table: tuple(columns) for table, columns in found.items()}


def in_both(one: Columns, other: Columns) -> dict[str, tuple[str, ...]]:
    """The columns that are in both, of the tables that are in both."""
    return {
        table: tuple(column for column in columns if column in other[table])
        for table, columns in one.items()
        if table in other
    }


class Print(NamedTuple):
    """The same for the same rows, in whatever order they lie."""

    rows: int
    hashes: str


EMPTY = Print(0, str(None))
"""Of a table without rows."""


def prints(connection: Any, columns: Columns) -> dict[str, Print]:
    """The print of each table, over the named columns."""
    return {table: _print(connection, table, names) for table, names in columns.items()}


def _print(connection: Any, table: str, columns: tuple[str, ...]) -> Print:
    """The number of rows and the sum of their hashes; every row is read once."""
    row = f"ROW({', '.join(f't.{column}' for column in columns)})::text"
    query = f"""SELECT count(*), sum(hashtextextended({row} COLLATE "C", 0)::numeric) FROM ONLY {table} t"""  # noqa: S608
    count, total = connection.execute(query).fetchone()
    return Print(count, str(total))


def differences(before: Mapping[str, Print], after: Mapping[str, Print]) -> Iterator[str]:
    """What differs, a line for each table."""
    for table in sorted({*before, *after}):
        old, new = before.get(table), after.get(table)
        if old == new:
            continue
        if old is None or new is None or old.rows != new.rows:
            yield f"rows of {table}: {_rows(old)} before, {_rows(new)} after"
        else:
            yield f"rows of {table}: there are {old.rows:,} as before, with other values"


def _rows(found: Print | None) -> str:
    return "no table" if found is None else f"{found.rows:,}"
