"""What a schema diff of a large schema takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from benchmarks.measure import Figure, median, milliseconds, provider, workplace
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema.catalog import read
from pytest_lakebranch.schema.diff import compare

TABLES = 300
ROUNDS = 5
TABLE = """
CREATE TABLE t{n} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, code varchar(20) DEFAULT 'x' UNIQUE,
    parent bigint REFERENCES t{n}, amount numeric(12, 2) CHECK (amount >= 0), made timestamptz DEFAULT now(),
    body jsonb, tags text[], a int, b int);
CREATE INDEX ON t{n} (name);
CREATE INDEX ON t{n} (made, parent);
CREATE VIEW v{n} AS SELECT id, name FROM t{n};
CREATE FUNCTION f{n}(a int) RETURNS int LANGUAGE sql AS 'SELECT a + {n}';
COMMENT ON TABLE t{n} IS 'table {n}';
GRANT SELECT ON t{n} TO PUBLIC;
"""


def figures() -> Iterator[Figure]:
    """Both schemas read and compared, over connections that are new each time."""
    with workplace() as home, provider(home, "auto") as made:
        key = made.root_key
        with made.building(key):
            base = made.build("base", None)
            fill(base)
            at = made.seal(base, key)
        before, after = made.start("b1", at), made.start("b2", at)
        with closing(connect(after.admin, autocommit=True)) as connection:
            for number in range(0, TABLES, 10):
                connection.execute(f"ALTER TABLE t{number} ADD more int, ALTER a TYPE bigint, DROP b")
        times = [milliseconds(lambda: differences(before, after)) for _ in range(ROUNDS)]
        found = differences(before, after)
        for branch in (before, after):
            branch.discard(disposable=True)
    if found != 3 * TABLES // 10:
        raise RuntimeError(f"{found} differences")
    yield Figure(f"schema diff of {TABLES} tables, both sides read", median(times), "ms", 1000)


def fill(base: Any) -> None:
    """Make the tables."""
    with closing(connect(base.endpoint, autocommit=True)) as connection:
        for number in range(TABLES):
            connection.execute(TABLE.format(n=number))


def differences(before: Any, after: Any) -> int:
    """How many there are."""
    schemas = []
    for branch in (before, after):
        with closing(connect(branch.endpoint, autocommit=True)) as connection:
            schemas.append(read(connection))
    return len(compare(*schemas).entries)
