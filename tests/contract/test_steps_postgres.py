"""What ``postgres:`` steps copy from a running server, and that they leave it as it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from step_servers import Server, rows

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema.elsewhere import of_variable
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.steps.notes import Notes

pytest_plugins = ["step_fixtures"]

SOURCE = """
DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'clerk') THEN CREATE ROLE clerk; END IF; END$$;
CREATE SCHEMA stock AUTHORIZATION clerk;
CREATE TABLE maker (id int PRIMARY KEY, name text);
CREATE TABLE stock.item (id int PRIMARY KEY, maker_id int REFERENCES maker, name text NOT NULL);
GRANT SELECT ON stock.item TO clerk;
INSERT INTO maker VALUES (1, 'acme');
INSERT INTO stock.item SELECT n, 1, 'item ' || n FROM generate_series(1, 1000) n;
CREATE VIEW stock.names AS SELECT name FROM stock.item;
"""


@pytest.fixture
def source(system_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A database on PostgreSQL 15 whose URL, with a password, is in PROD_URL."""
    made = system_server.place(tmp_path)
    with connect(made.endpoint) as conn:
        conn.execute(SOURCE)
    where = f"postgresql+asyncpg://postgres:pa55word@/{made.endpoint.dbname}?host={made.endpoint.host}&port=5432"
    monkeypatch.setenv("PROD_URL", where)
    return made


@pytest.fixture
def place(embedded_server: Server, tmp_path: Path) -> Workplace:
    """A fresh database on PostgreSQL 18."""
    with embedded_server.connect() as conn:
        conn.execute("DROP ROLE IF EXISTS clerk") if not _owns(conn) else None
    return embedded_server.place(tmp_path)


def _owns(conn: Any) -> bool:
    found = conn.execute("SELECT FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid WHERE rolname = 'clerk'")
    return bool(found.fetchall())


def _schema(_root: Path) -> object:
    return of_variable("PROD_URL", os.environ)


def transactions(place: Workplace) -> int:
    """The number that the next transaction that writes will have."""
    ((number,),) = rows(place, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return int(number)


def test_whole_copy(source: Workplace, place: Workplace, tmp_path: Path) -> None:
    """Everything is there, also roles; the original was not written to, and nothing is left beside the notes."""
    before = transactions(source)
    home = tmp_path / "notes"
    parse("postgres:PROD_URL", root=tmp_path, notes=Notes(home)).apply(place)
    assert rows(place, "SELECT count(*), max(name) FROM stock.names") == [(1000, "item 999")]
    assert rows(place, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'stock'") == [("clerk",)]
    assert rows(place, "SELECT has_table_privilege('clerk', 'stock.item', 'SELECT')") == [(True,)]
    assert transactions(source) == before
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "tables"),
    [
        ("schemas=stock", {"stock.item", "stock.names"}),
        ("schemas=stock,public", {"stock.item", "stock.names", "maker"}),
        ("tables=stock.item", {"stock.item"}),
        ("tables=maker,stock.item", {"maker", "stock.item"}),
        ("tables=maker,stock.*", {"maker", "stock.item", "stock.names"}),
    ],
)
def test_selection(source: Workplace, place: Workplace, tmp_path: Path, words: str, tables: set[str]) -> None:
    """Only what is chosen is copied; a foreign key to a table that is not is left out."""
    parse(f"postgres:PROD_URL {words}", root=tmp_path).apply(place)
    query = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace::regnamespace::text"
    assert {name for (name,) in rows(place, f"{query} IN ('public', 'stock')")} == tables
    keys = rows(place, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'")
    assert keys == [(1 if "maker" in tables else 0,)]
    assert rows(place, "SELECT has_schema_privilege('public', 'public', 'USAGE')") == [(True,)]


@pytest.mark.parametrize("words", ["", " schemas=public", " tables=maker,item"])
def test_schema_public_that_has_another_owner(source: Workplace, place: Workplace, tmp_path: Path, words: str) -> None:
    """It keeps it, where the schema is copied; in any case there is one."""
    with connect(source.endpoint) as conn:
        conn.execute("ALTER SCHEMA public OWNER TO clerk; CREATE TABLE item (id int)")
    parse(f"postgres:PROD_URL{words}", root=tmp_path).apply(place)
    assert rows(place, "SELECT count(*) FROM public.maker, public.item") == [(0,)]
    owner = "pg_database_owner" if "tables" in words else "clerk"
    assert rows(place, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'") == [(owner,)]


def test_names_with_spaces(source: Workplace, place: Workplace, tmp_path: Path) -> None:
    """Keys between chosen tables are kept, and those that lead away are left out with what is said of them, whatever
    the tables are called.
    """
    with connect(source.endpoint) as conn:
        conn.execute('CREATE TABLE "my maker" (id int PRIMARY KEY); CREATE TABLE "my rival" (id int PRIMARY KEY)')
        conn.execute(
            'CREATE TABLE "my item" (maker int CONSTRAINT "its maker" REFERENCES "my maker",'
            ' rival int CONSTRAINT "its rival" REFERENCES "my rival");'
            """ COMMENT ON CONSTRAINT "its rival" ON "my item" IS 'away'"""
        )
    parse("postgres:PROD_URL tables=my?maker,my?item", root=tmp_path).apply(place)
    assert rows(place, "SELECT conname::text FROM pg_constraint WHERE contype = 'f'") == [("its maker",)]


def test_roles_of_policies_and_default_privileges(source: Workplace, place: Workplace, tmp_path: Path) -> None:
    """They are created too, though no object belongs to them."""
    with connect(source.endpoint, autocommit=True) as conn:
        try:
            conn.execute('CREATE ROLE "a TO b"; CREATE ROLE heir')
            conn.execute('CREATE POLICY mine ON maker FOR SELECT TO "a TO b" USING (true)')
            conn.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA stock GRANT SELECT ON TABLES TO heir")
            parse("postgres:PROD_URL", root=tmp_path).apply(place)
        finally:
            conn.execute('DROP OWNED BY "a TO b", heir; DROP ROLE "a TO b", heir')
    assert rows(place, "SELECT polroles::regrole[]::text FROM pg_policy") == [('{"\\"a TO b\\""}',)]
    assert rows(place, "SELECT defaclacl::text LIKE '%heir=r/%' FROM pg_default_acl") == [(True,)]
    with connect(place.endpoint, autocommit=True) as conn:
        conn.execute('DROP OWNED BY "a TO b", heir; DROP ROLE "a TO b", heir')


def test_selection_that_matches_nothing(source: Workplace, place: Workplace, tmp_path: Path) -> None:
    """A table that is not there is named."""
    with pytest.raises(
        BaseError, match=r"failed at PROD_URL:\n.*no matching tables were found for pattern \"nothing\""
    ):
        parse("postgres:PROD_URL tables=nothing", root=tmp_path).apply(place)


def test_newer_server(
    embedded_server: Server, system_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is newer than the programs in use is refused, with what to do."""
    newer = embedded_server.place(tmp_path).endpoint
    monkeypatch.setenv("PROD_URL", f"postgresql://postgres@/{newer.dbname}?host={newer.host}")
    with pytest.raises(BaseError, match=r"the server is PostgreSQL 18.\d+, which is newer than the PostgreSQL 15"):
        parse("postgres:PROD_URL", root=tmp_path).apply(system_server.place(tmp_path))


def test_server_that_is_not_reached(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which variable, and does not show the password."""
    monkeypatch.setenv("PROD_URL", "postgresql://me:pa55word@127.0.0.1:1/shop")
    with pytest.raises(BaseError) as caught:
        parse("postgres:PROD_URL", root=tmp_path).apply(place)
    assert "the server that PROD_URL names cannot be read: connection" in str(caught.value)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "url", "says"),
    [
        ("postgres:PROD_URL", "", "the environment variable PROD_URL is not set"),
        ("postgres:PROD_URL", "shop", "PROD_URL is no PostgreSQL URL"),
        ("postgres:postgresql://me:pa55word@db/shop", "x", "must be the name of an environment variable"),
        ("postgres:PROD_URL tables", "host=x", "'tables' is not one of schemas=NAME,…"),
        ("postgres:PROD_URL tables=,", "host=x", "'tables=,' is not one of schemas=NAME,…"),
        ("postgres:PROD_URL schemas=app tables=x", "host=x", "told of a table. tables=x,app.* takes"),
        ("postgres:PROD_URL schemas=app copy=physical", "host=x", "everything: schemas= cannot be given with it"),
        ("postgres:PROD_URL tables=x copy=physical", "host=x", "everything: tables= cannot be given with it"),
        ("postgres:PROD_URL refresh=often", "host=x", "refresh: 'often' is not a span of time such as"),
    ],
)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, url: str, says: str) -> None:
    """What is written wrongly is refused before the first test."""
    monkeypatch.setenv("PROD_URL", url)
    with pytest.raises(ConfigError) as caught:
        parse(entry, root=tmp_path)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["host=db password=my pa55word", "postgresql://me:pa55/word@db/x", "postgresql://me:12/pa55word@db/x", "pa55word"],
)
@pytest.mark.parametrize("ask", [lambda root: parse("postgres:PROD_URL", root=root), _schema], ids=["copy", "schema"])
def test_malformed_url_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, ask: Callable[[Path], object]
) -> None:
    """A part of it that is taken for a port, a database or an option may be a password's."""
    monkeypatch.setenv("PROD_URL", url)
    with pytest.raises(ConfigError, match="is no PostgreSQL URL") as caught:
        ask(tmp_path)
    assert "pa55" not in str(caught.value)
    assert "word@" not in str(caught.value)


def test_libpq_variables_do_not_count(
    source: Workplace, place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the URL leaves open is the same for looking and for copying, whatever variables there are."""
    monkeypatch.setenv("PROD_URL", f"dbname={source.endpoint.dbname} user=postgres host={source.endpoint.host}")
    for name, value in {"PGPORT": "1", "PGUSER": "nobody", "PGSSLMODE": "verify-full"}.items():
        monkeypatch.setenv(name, value)
    parse("postgres:PROD_URL", root=tmp_path).apply(place)
    assert rows(place, "SELECT count(*) FROM stock.item") == [(1000,)]


def test_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another database or selection is another copy, another password is not; refresh makes a copy too old."""
    monkeypatch.setenv("PROD_URL", "postgresql://me:one@db/shop")
    one = parse("postgres:PROD_URL", root=tmp_path).fingerprint()
    monkeypatch.setenv("PROD_URL", "postgresql://me:two@db/shop")
    assert parse("postgres:PROD_URL", root=tmp_path).fingerprint() == one
    for words in ("schemas=a", "copy=dump"):
        assert parse(f"postgres:PROD_URL {words}", root=tmp_path).fingerprint() != one
    daily: Any = parse("postgres:PROD_URL refresh=1d", root=tmp_path)
    at = [replace(daily, now=now).fingerprint() for now in (86400.0, 86400 * 2 - 1.0, 86400 * 2.0)]
    assert at[0] == at[1] != at[2]


def test_fingerprint_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service file's entry says which database it is; how long to wait for it says nothing."""
    found = []
    for where in ("service=shop", "service=archive", "service=shop connect_timeout=3 password=x"):
        monkeypatch.setenv("PROD_URL", where)
        found.append(parse("postgres:PROD_URL", root=tmp_path).fingerprint())
    assert found[0] == found[2] != found[1]
