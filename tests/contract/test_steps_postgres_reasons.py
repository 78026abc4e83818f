"""When ``postgres:`` steps do not copy files: each reason, found out before anything is copied, and told."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from original_rigs import Original, as_told, refusing
from step_servers import Server, rows

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["original_fixtures", "step_fixtures"]

Change = Callable[[Original], object]
REASONS: dict[str, tuple[str, Change]] = {
    "its role may not replicate": ("reader", lambda shop: None),
    "it has prepared transactions": (
        "copier",
        lambda shop: shop.execute("BEGIN", "CREATE TABLE soon (x int)", f"PREPARE TRANSACTION '{shop.name}'"),
    ),
    "the PostgreSQL here has no extension pg_trgm 9.9": (
        "copier",
        lambda shop: shop.execute("UPDATE pg_extension SET extversion = '9.9' WHERE extname = 'pg_trgm'"),
    ),
    "the PostgreSQL here has no library $libdir/elsewhere": (
        "copier",
        lambda shop: shop.execute(
            "CREATE FUNCTION own(text) RETURNS real LANGUAGE c AS '$libdir/pg_trgm', 'show_limit'",
            "UPDATE pg_proc SET probin = '$libdir/elsewhere' WHERE proname = 'own'",
        ),
    ),
    "its collation C may be another one here (library versions: recorded, there, here: 2.1, unknown, unknown)": (
        "copier",
        lambda shop: shop.execute("UPDATE pg_database SET datcollversion = '2.1' WHERE datname = current_database()"),
    ),
    "its collation de-x-icu cannot be had here: ICU is not supported in this build": (
        "copier",
        lambda shop: shop.execute(
            "INSERT INTO pg_collation SELECT 99999, 'de', collnamespace, collowner, 'i', true, -1, NULL, NULL, "
            "'de-x-icu', NULL, '153' FROM pg_collation WHERE collname = 'C'",
            "UPDATE pg_index SET indcollation = '99999' WHERE indexrelid = 'account_pkey'::regclass",
        ),
    ),
    "the PostgreSQL here was built without its default_toast_compression, lz4 and pglz": (
        "copier",
        lambda shop: shop.execute("UPDATE pg_attribute SET attcompression = 'l' WHERE attname = 'name' AND attnum > 0"),
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_not_possible(reason: str, shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """It is found out before anything is copied: with copy=physical it is an error."""
    user, change = REASONS[reason]
    change(shop)
    try:
        with pytest.raises(BaseError) as caught:
            parse(f"{shop.use(user)} copy=physical", root=tmp_path).apply(refusing(embedded_server.place(tmp_path)))
        assert f"it cannot be copied physically: {reason}." in str(caught.value)
    finally:
        if "prepared" in reason:
            shop.execute(f"ROLLBACK PREPARED '{shop.name}'")


def test_large_other_databases(shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """They would all come along; and a role that may not even see their size knows nothing of what would."""
    other = replace(shop, name="other")
    shop.execute("CREATE DATABASE other")
    place = embedded_server.place(tmp_path)
    try:
        other.execute(
            "CREATE UNLOGGED TABLE big (x text STORAGE PLAIN)",
            "INSERT INTO big SELECT repeat('x', 7000) FROM generate_series(1, 10000)",
        )
        told = as_told(shop, place, tmp_path)
        assert re.search(r", by dump: its other databases have \d+ MB, and would come along$", told)
        shop.execute("REVOKE CONNECT ON DATABASE other FROM public")
        told = as_told(shop, embedded_server.place(tmp_path), tmp_path)
        assert told.endswith(", by dump: it has 1 other database whose size its role may not see")
        assert rows(place, "SELECT count(*) FROM item") == [(5000,)]
    finally:
        shop.execute("DROP DATABASE other")


def test_tablespace(shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """Their paths are those of the original's machine."""
    place = embedded_server.place(tmp_path)
    with shop.server.connect() as conn:
        conn.execute("SET allow_in_place_tablespaces = on")
        conn.execute("CREATE TABLESPACE apart LOCATION ''")
        try:
            told = as_told(shop, place, tmp_path)
        finally:
            conn.execute("DROP TABLESPACE apart")
    assert told.endswith(", by dump: it has tablespaces")


def test_encoding(shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """A dump is translated to the encoding of bases, files are not."""
    latin = replace(shop, name="latin")
    shop.execute("CREATE DATABASE latin ENCODING latin1 TEMPLATE template0")
    try:
        told = as_told(latin, embedded_server.place(tmp_path), tmp_path)
    finally:
        shop.execute("DROP DATABASE latin")
    assert told.endswith(", by dump: its encoding is LATIN1, and that of bases is UTF8")


def test_chosen_locale(shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """Who has set lakebranch_locale gets it; the default leaves the order to the original."""
    place = embedded_server.place(tmp_path)
    with embedded_server.connect() as conn:
        made = "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST' TEMPLATE template0"
        conn.execute(f"CREATE DATABASE ordered {made}")
        try:
            told = as_told(shop, replace(place, endpoint=replace(place.endpoint, dbname="ordered")), tmp_path)
        finally:
            conn.execute("DROP DATABASE ordered")
    assert told.endswith(", by dump: its locale is C, and that of bases is PG_UNICODE_FAST (lakebranch_locale)")


def test_wishes(shop: Original, embedded_server: Server, tmp_path: Path) -> None:
    """A selection and copy=dump are answered by a dump."""
    place = embedded_server.place
    assert as_told(shop, place(tmp_path), tmp_path, words=" tables=account").endswith("only a part of it is wanted")
    assert as_told(shop, place(tmp_path), tmp_path, words=" copy=dump").endswith(", by dump: copy=dump")
    for words in (" copy=physical tables=account", " copy=quickly"):
        with pytest.raises(ConfigError, match="copy="):
            parse(f"{shop.use()}{words}", root=tmp_path)


def test_other_major(
    system_server: Server, embedded_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of another major version are of no use."""
    old = Original(system_server, system_server.place(tmp_path).endpoint.dbname, monkeypatch)
    told = as_told(old, embedded_server.place(tmp_path), tmp_path, user="postgres")
    assert told.endswith(", by dump: it is PostgreSQL 15, and here is 18")
