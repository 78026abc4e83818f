"""What ``postgres:`` steps copy with the tables and schemas that are chosen: all that these need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from step_servers import Server, rows

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]

RICH = """
CREATE EXTENSION citext;
CREATE SCHEMA kinds;
CREATE SCHEMA stock;
CREATE TYPE mood AS ENUM ('fine', 'tired');
CREATE DOMAIN kinds.amount AS int CHECK (VALUE > 0);
CREATE TYPE kinds.pair AS (one kinds.amount, moods mood[]);
CREATE FUNCTION kinds.next() RETURNS kinds.amount LANGUAGE sql AS 'SELECT 7';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.mail := 'stamped'; RETURN NEW; END$$;
CREATE TABLE rich (
    id int PRIMARY KEY, mood mood, pair kinds.pair, amount kinds.amount DEFAULT kinds.next(), mail citext);
CREATE FUNCTION loud(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE INDEX rich_mail ON rich (loud(mail::text), mail);
CREATE TRIGGER stamp BEFORE INSERT ON rich FOR EACH ROW EXECUTE FUNCTION stamp();
INSERT INTO rich VALUES (1, 'fine', (3, '{tired}'));
CREATE TABLE line (id int PRIMARY KEY, mood mood) PARTITION BY RANGE (id);
CREATE TABLE stock.line_1 PARTITION OF line FOR VALUES FROM (0) TO (100);
INSERT INTO line SELECT n, 'fine' FROM generate_series(1, 50) n;
DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'narrow') THEN CREATE ROLE narrow LOGIN; END IF; END$$;
GRANT SELECT ON rich TO narrow;
CREATE SEQUENCE numbers;
CREATE TABLE numbered (id int DEFAULT nextval('numbers'));
"""


@pytest.fixture(autouse=True)
def source(system_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables on PostgreSQL 15 that need what is not in them; PROD_URL leads there."""
    made = system_server.place(tmp_path).endpoint
    with connect(made) as conn:
        conn.execute(RICH)
    monkeypatch.setenv("PROD_URL", f"postgresql://postgres@/{made.dbname}?host={made.host}&port=5432")


@pytest.fixture
def place(embedded_server: Server, tmp_path: Path) -> Workplace:
    """A fresh database on PostgreSQL 18."""
    return embedded_server.place(tmp_path)


@pytest.mark.parametrize("before", ["SELECT 1", "CREATE TYPE mood AS ENUM ('fine', 'tired')"])
def test_selected_tables_come_with_their_types(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Also with functions, extensions and other schemas, for a role that may read no other table; what an earlier step
    has made is left as it is.
    """
    monkeypatch.setenv("PROD_URL", os.environ["PROD_URL"].replace("postgres@", "narrow@"))
    with connect(place.endpoint) as conn:
        conn.execute(before)
    parse("postgres:PROD_URL tables=rich", root=tmp_path).apply(place)
    with connect(place.endpoint) as conn:
        conn.execute("INSERT INTO rich (id) VALUES (2)")
    found = rows(place, "SELECT mood, pair, amount, mail FROM rich ORDER BY id")
    assert found == [("fine", "(3,{tired})", 7, "stamped"), (None, None, 7, "stamped")]


@pytest.mark.parametrize(
    ("words", "table"),
    [("tables=line", "line"), ("tables=stock.line_1", "stock.line_1"), ("schemas=public,stock", "line")],
)
def test_partitions(place: Workplace, tmp_path: Path, words: str, table: str) -> None:
    """A partitioned table is copied with its partitions; a partition by itself is a table."""
    parse(f"postgres:PROD_URL {words}", root=tmp_path).apply(place)
    assert rows(place, f"SELECT count(*) FROM {table}") == [(50,)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "tables=line",
            "needs stock.line_1 of line: choose that too (tables=), or set lakebranch_postgres to",
        ),
        ("tables=numbered", "what is chosen needs the sequence public.numbers: choose that too"),
    ],
)
def test_selection_that_leaves_rows_out(system_server: Server, tmp_path: Path, words: str, says: str) -> None:
    """What pg_dump 15 leaves out of a partitioned table, or of a default, is named; nothing is lost silently."""
    with pytest.raises(BaseError) as caught:
        parse(f"postgres:PROD_URL {words}", root=tmp_path).apply(system_server.place(tmp_path))
    assert says in str(caught.value)
