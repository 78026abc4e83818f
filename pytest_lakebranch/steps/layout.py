"""Whether a server's data files can be used by another one as they are: what must be equal, and how it is asked for.

Both servers are asked the same where that is possible. Everything is found out before anything is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

FORMAT = """
SELECT to_jsonb(i) - 'bytes_per_wal_segment' - 'data_page_checksum_version' || jsonb_build_object(
  'catalog_version_no', s.catalog_version_no, 'pg_control_version', s.pg_control_version,
  'processor', substring(version() FROM ' on ([^ -]+)-'))
FROM pg_control_init() i, pg_control_system() s"""
"""What a data directory was made with (pg_control) and for. The size of log segments and checksums may differ."""
LOCALE = """
SELECT jsonb_build_object('provider', datlocprovider, 'collate', datcollate, 'ctype', datctype,
  'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'))
FROM pg_database d WHERE datname = current_database()"""
COLLATIONS = """
SELECT coalesce(jsonb_agg(DISTINCT to_jsonb(c)), '[]') FROM (
  SELECT datlocprovider AS provider, datcollate AS collate, datctype AS ctype,
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale,
    to_jsonb(d) ->> 'daticurules' AS rules, true AS deterministic,
    datcollversion AS recorded, pg_database_collation_actual_version(oid) AS actual
  FROM pg_database d WHERE datname IN (current_database(), 'template0')
  UNION ALL
  SELECT collprovider, collcollate, collctype,
    coalesce(to_jsonb(o) ->> 'colllocale', to_jsonb(o) ->> 'colliculocale'),
    to_jsonb(o) ->> 'collicurules', collisdeterministic, collversion, pg_collation_actual_version(oid)
  FROM pg_collation o WHERE collprovider <> 'd' AND oid IN (
    SELECT refobjid FROM pg_depend WHERE refclassid = 'pg_collation'::regclass
    UNION ALL SELECT unnest(indcollation) FROM pg_index WHERE indrelid >= 16384
    UNION ALL SELECT unnest(partcollation) FROM pg_partitioned_table
    UNION ALL SELECT rngcollation FROM pg_range)) AS c"""
"""The collations that decide the order of what is stored, of this database and of that which new ones are made from;
each with the library's version that indexes were built with, and that of the present library.
"""
EXTENSIONS = "SELECT jsonb_agg(jsonb_build_array(extname, extversion)) FROM pg_extension"
LIBRARIES = "SELECT coalesce(jsonb_agg(DISTINCT probin), '[]') FROM pg_proc WHERE probin IS NOT NULL AND oid >= 16384"
COMPRESSIONS = """
SELECT jsonb_build_array(current_setting('wal_compression'), current_setting('default_toast_compression'),
  CASE WHEN EXISTS (SELECT FROM pg_attribute WHERE attcompression = 'l') THEN 'lz4' END)"""

_COMPRESSES = "SELECT word = ANY (enumvals) FROM pg_settings, unnest(%s::text[]) word WHERE name = %s"
_PACKAGED = "SELECT name, version FROM pg_available_extension_versions"
_FILES = "SELECT split_part(pg_ls_dir(setting), '.', 1) FROM pg_config WHERE name = 'PKGLIBDIR'"
_BY_BYTES = ("C", "POSIX")
"""Names of locales, with those that begin with C., whose order is that of bytes, whatever the library."""


def difference(theirs: Mapping[str, Any], conn: psycopg.Connection[Any]) -> str | None:
    """Why the data files of an original, of which ``theirs`` is known, are of no use to the server of ``conn``.

    None when they are.
    """
    reasons = (
        _format(theirs["format"], conn),
        _encoding(theirs["encodings"]),
        _locale(theirs["locale"], conn),
        *_extensions(theirs["extensions"], conn),
        *_libraries(theirs["libraries"], conn),
        _compression(theirs["compressions"], conn),
        *_collations(theirs["collations"], conn),
    )
    return next((reason for reason in reasons if reason), None)


def _format(theirs: Mapping[str, Any], conn: psycopg.Connection[Any]) -> str | None:
    (ours,) = conn.execute(FORMAT).fetchone() or ({},)
    for name in sorted({*ours, *theirs}):
        if theirs.get(name) is None or theirs[name] != ours.get(name):
            return f"its {name} is {theirs.get(name)}, and here it is {ours.get(name)}"
    return None


def _encoding(theirs: Iterable[str]) -> str | None:
    other = sorted(set(theirs) - {"UTF8"})
    return f"its encoding is {other[0]}, and that of bases is UTF8" if other else None


def _locale(theirs: Mapping[str, Any], conn: psycopg.Connection[Any]) -> str | None:
    """A locale that was chosen for bases stays; one that orders by bytes, as the default does, gives way."""
    (ours,) = conn.execute(LOCALE).fetchone() or ({},)
    if _is_by_bytes(ours) or ours == theirs:
        return None
    return f"its locale is {_name(theirs)}, and that of bases is {_name(ours)} (lakebranch_locale)"


def _extensions(theirs: Iterable[tuple[str, str]], conn: psycopg.Connection[Any]) -> Iterator[str]:
    packaged = {tuple(row) for row in conn.execute(_PACKAGED).fetchall()}
    for name, version in theirs:
        if (name, version) not in packaged:
            yield f"the PostgreSQL here has no extension {name} {version}"


def _libraries(theirs: Iterable[str], conn: psycopg.Connection[Any]) -> Iterator[str]:
    there = {name for (name,) in conn.execute(_FILES).fetchall()} if theirs else set()
    for path in theirs:
        if path.removeprefix("$libdir/").partition(".")[0] not in there:
            yield f"the PostgreSQL here has no library {path}"


def _compression(theirs: list[str | None], conn: psycopg.Connection[Any]) -> str | None:
    log, values, column = theirs
    for setting, used in {"wal_compression": {log}, "default_toast_compression": {values, column}}.items():
        wanted = sorted(used - {None})  # type: ignore[type-var]  # no None is left
        if not all(known for (known,) in conn.execute(_COMPRESSES, [wanted, setting]).fetchall()):
            return f"the PostgreSQL here was built without its {setting}, {' and '.join(map(str, wanted))}"
    return None


def _collations(theirs: Iterable[Mapping[str, Any]], conn: psycopg.Connection[Any]) -> Iterator[str]:
    """A library that orders otherwise makes indexes wrong without a word: all three versions must be the same."""
    for one in theirs:
        name = _name(one)
        here, trouble = _version_here(one, conn)
        if trouble:
            yield f"its collation {name} cannot be had here: {trouble}"
        elif {one["recorded"], one["actual"]} != {here} or (here is None and not _is_by_bytes(one)):
            known = ", ".join(str(version or "unknown") for version in (one["recorded"], one["actual"], here))
            yield f"its collation {name} may be another one here (library versions: recorded, there, here: {known})"


def _name(one: Mapping[str, Any]) -> str:
    return str(one["locale"] or one["collate"])


def _is_by_bytes(one: Mapping[str, Any]) -> bool:
    return one["provider"] != "i" and (_name(one) in _BY_BYTES or _name(one).startswith("C."))


def _version_here(one: Mapping[str, Any], conn: psycopg.Connection[Any]) -> tuple[str | None, str]:
    """The version of a collation's library on the server of ``conn``, which is left as it was; or why it has none."""
    import psycopg
    from psycopg import sql

    given = {"provider": {"c": "libc", "i": "icu", "b": "builtin"}.get(one["provider"], "")}
    if one["provider"] == "c":
        given |= {"lc_collate": one["collate"], "lc_ctype": one["ctype"]}
    else:
        given |= {"locale": one["locale"], "deterministic": str(one["deterministic"]).lower()}
        given |= {"rules": one["rules"]} if one["rules"] else {}
    words = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.SQL(key), value) for key, value in given.items())
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(sql.SQL("CREATE COLLATION public.lakebranch_probe ({})").format(words))
            row = conn.execute("SELECT pg_collation_actual_version('public.lakebranch_probe'::regcollation)").fetchone()
            return (row[0] if row else None), ""
    except psycopg.Error as error:
        return None, str(error).splitlines()[0]
