"""Tables as they were before a migration, and what has become of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

from pytest_lakebranch.migrations import triggers
from pytest_lakebranch.migrations.observation import (
    MAINTAINED,
    REFRESHED,
    TRUNCATED,
    IndexMade,
    RequiredColumn,
    Rewrite,
)

_TABLES = f"""
SELECT c.oid::bigint, format('%I.%I', n.nspname, c.relname), c.relkind::text, pg_relation_filenode(c.oid)::bigint,
    CASE c.relkind WHEN 'p' THEN (SELECT coalesce(sum(greatest(l.reltuples, 0)), 0) FROM pg_partition_tree(c.oid) t
        JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) ELSE greatest(c.reltuples, 0) END::bigint,
    CASE WHEN c.relkind IN ('r', 'm') THEN pg_total_relation_size(c.oid) ELSE 0 END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm')
AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', '{triggers.SCHEMA}')
"""  # noqa: S608  (a constant)
_FILES = "SELECT oid::bigint, pg_relation_filenode(oid)::bigint, reltuples < 0 FROM pg_class WHERE oid = ANY(%s)"
_INDEXES = """
SELECT i.indexrelid::bigint, i.indrelid::bigint, format('%%I.%%I', n.nspname, c.relname),
    pg_relation_filenode(c.oid)::bigint
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.indrelid = ANY(%s) AND c.relkind = 'i'
"""
_REQUIRED = """
SELECT a.attrelid::bigint, a.attnum, a.attname, a.attinhcount > 0
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL
AND (a.attnotnull OR t.typnotnull OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = a.attrelid
    AND k.contype = 'c' AND pg_get_expr(k.conbin, k.conrelid) = format('(%%I IS NOT NULL)', a.attname)))
"""
_COLUMNS = "SELECT attrelid::bigint, attnum FROM pg_attribute WHERE attrelid = ANY(%s) AND attnum > 0"


class Column(NamedTuple):
    """A table's oid, and the column's number in it."""

    table: int
    number: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table. ``rows`` is PostgreSQL's estimate, for a partitioned one that of its parts; ``size`` in bytes with its
    indexes; ``kind`` as in pg_class.
    """

    oid: int
    name: str
    kind: str
    filenode: int
    rows: int
    size: int


class Index(NamedTuple):
    """An index; ``table`` is an oid."""

    table: int
    name: str
    filenode: int


class _Required(NamedTuple):
    """A column that an INSERT must give a value; ``inherited``: from a parent, or from the table it is a part of."""

    name: str
    inherited: bool


@dataclass(frozen=True, slots=True)
class Tables:
    """All tables of the database that are not PostgreSQL's own or ours, by oid; their indexes and columns.

    ``required`` are the columns that an INSERT must give a value, with their names.
    """

    tables: Mapping[int, Table]
    indexes: Mapping[int, Index]
    columns: frozenset[Column]
    required: Mapping[Column, _Required]

    @classmethod
    def seen(cls, connection: Any) -> Tables:
        """As they are now."""
        tables = {row[0]: Table(*row) for row in connection.execute(_TABLES).fetchall()}
        columns = connection.execute(_COLUMNS, [list(tables)]).fetchall()
        return cls(
            tables,
            _indexes(connection, tables),
            frozenset(Column(*row) for row in columns),
            _required(connection, tables),
        )

    def rewritten(self, connection: Any, reasons: Mapping[int, str]) -> Iterator[Rewrite]:
        """Those whose files are others now; ``reasons`` are what is known of some, by oid."""
        now = {oid: (file, uncounted) for oid, file, uncounted in connection.execute(_FILES, [list(self.tables)])}
        for oid, table in self.tables.items():
            file, uncounted = now.get(oid, (table.filenode, False))
            if oid in reasons:
                yield Rewrite(table.name, reasons[oid], table.rows, table.size)
            elif file != table.filenode and table.size:
                yield Rewrite(table.name, _untold(table, uncounted=uncounted), table.rows, table.size)

    def rebuilt(self, connection: Any, rewritten: Iterable[Rewrite]) -> Iterator[IndexMade]:
        """Indexes that have other files, though their tables have not: REINDEX keeps an oid, CONCURRENTLY does not."""
        told = {one.table for one in rewritten}
        for oid, index in _indexes(connection, self.tables).items():
            table = self.tables[index.table]
            if oid in self.indexes and self.indexes[oid].filenode != index.filenode and table.name not in told:
                yield IndexMade(index.name, table.name, alone=True, rows=table.rows, again=True)

    def newly_required(self, connection: Any, defaults: Set[Column]) -> Iterator[RequiredColumn]:
        """Columns that must be given a value now, and needed none before, or were not there and were not filled but by
        their ``defaults``. One that is inherited is told of the parent.
        """
        for column, now in sorted(_required(connection, self.tables).items()):
            table, added = self.tables[column.table], column not in self.columns
            filled = added and table.rows and column not in defaults
            if column not in self.required and not now.inherited and not filled:
                yield RequiredColumn(table.name, now.name, table.rows, added=added)


def _untold(table: Table, *, uncounted: bool) -> str:
    """Why a table's files are others, where no event trigger said so: TRUNCATE forgets how many rows there are."""
    if table.kind == "m":
        return REFRESHED
    return TRUNCATED if uncounted else MAINTAINED


def _indexes(connection: Any, tables: Mapping[int, Table]) -> dict[int, Index]:
    return {oid: Index(*rest) for oid, *rest in connection.execute(_INDEXES, [list(tables)])}


def _required(connection: Any, tables: Mapping[int, Table]) -> dict[Column, _Required]:
    rows = connection.execute(_REQUIRED, [list(tables)])
    return {Column(table, number): _Required(*rest) for table, number, *rest in rows}
