"""What chosen tables and schemas need that pg_dump leaves out with them.

pg_dump takes exactly what is chosen. The original's catalog (pg_depend) knows the rest: types, functions, collations
and extensions are made of a second dump, which has no tables; what holds rows is the user's to choose.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.steps import dump, programs
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure

Key = tuple[str, str]
"""Of an object: the oid of its catalog, and its own in there."""
FOLLOWS_SINCE = 16
"""The first pg_dump that takes a table's partitions and children with it."""
_AT_ONCE = 4000
"""Objects in one query: an argument of a program may be 128 kB long."""
_NEED = """
WITH RECURSIVE root (classid, objid) AS (VALUES {roots}), need (classid, objid) AS (
    SELECT classid, objid FROM root
    UNION
    SELECT found.classid, found.objid FROM need CROSS JOIN LATERAL (
        SELECT refclassid, refobjid FROM pg_depend d
        WHERE d.classid = need.classid AND d.objid = need.objid AND deptype IN ('n', 'i', 'e')
        UNION ALL
        SELECT d.classid, d.objid FROM pg_depend d
        WHERE d.refclassid = need.classid AND d.refobjid = need.objid AND deptype IN ('a', 'i')
    ) found (classid, objid)
    WHERE found.classid <> 'pg_class'::regclass
    OR (SELECT relkind FROM pg_class WHERE oid = found.objid) IN ('c', 'i', 'I'))
SELECT 'object', classid, objid, '' FROM need WHERE classid::regclass::text IN ('pg_type', 'pg_proc', 'pg_collation',
    'pg_extension', 'pg_operator', 'pg_opclass', 'pg_opfamily', 'pg_ts_config', 'pg_ts_dict', 'pg_foreign_server',
    'pg_foreign_data_wrapper')
UNION ALL
SELECT 'schema', classid, objid, nspname FROM need JOIN pg_namespace n ON n.oid = objid
WHERE classid = 'pg_namespace'::regclass
UNION ALL
SELECT 'sequence', d.refclassid, c.oid, format('the sequence %s.%s', nspname, relname)
FROM need JOIN pg_depend d ON d.classid = need.classid AND d.objid = need.objid AND d.deptype = 'n'
JOIN pg_class c ON c.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S'
JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'child', 1259, c.oid, format('%s.%s of %s', nspname, c.relname, p.relname)
FROM root JOIN pg_inherits i ON inhparent = root.objid AND root.classid = 1259
JOIN pg_class p ON p.oid = inhparent JOIN pg_class c ON c.oid = inhrelid AND c.relkind IN ('r', 'p', 'f')
JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'parent', 1259, coalesce(x.indrelid, inhparent), format('%s %s', nspname, relname)
FROM need JOIN pg_inherits i ON inhrelid = need.objid AND need.classid = 1259
LEFT JOIN pg_index x ON x.indexrelid = inhparent JOIN pg_class c ON c.oid = inhrelid
JOIN pg_namespace n ON n.oid = c.relnamespace"""


@dataclass(frozen=True, slots=True)
class Needed:
    """What a dump needs that is not in it.

    ``objects`` are made before it is restored, in ``schemas``, with those of its own that they are made of.
    ``left_out`` names what holds rows: sequences of defaults, parts of tables. ``loose``: schema and name of
    partitions, and of their indexes, whose parents are not in the dump.
    """

    objects: frozenset[Key]
    schemas: tuple[str, ...]
    left_out: tuple[str, ...]
    loose: frozenset[str]


def needed_by(copied: Path, source: Mapping[str, str], place: Workplace, label: str) -> Needed:
    """What the dump ``copied`` of a part of ``source`` needs; BaseError when the original cannot be asked."""
    there = {key for key, _ in keyed(dump.contents(copied, place))}
    absent = [one for one in _asked(there, source, place, label) if one[1] not in there]
    objects = {key for word, key, _ in absent if word == "object"}
    return Needed(
        frozenset(key for word, key, _ in _asked(objects, source, place, label) if word == "object"),
        tuple(name for word, _, name in absent if word == "schema"),
        tuple(name for word, _, name in absent if word in ("child", "sequence")),
        frozenset(name for word, _, name in absent if word == "parent"),
    )


def _asked(keys: Iterable[Key], source: Mapping[str, str], place: Workplace, label: str) -> list[tuple[str, Key, str]]:
    ordered, found = sorted(keys), set()
    for first in range(0, len(ordered), _AT_ONCE):
        roots = ", ".join(f"({catalog}::oid, {oid}::oid)" for catalog, oid in ordered[first : first + _AT_ONCE])
        done = programs.ask(source, place, _NEED.format(roots=roots), "--csv")
        if done.status:
            raise BaseError(f"{label}: what the chosen part needs cannot be read: {masked(done.errors).strip()}")
        rows = csv.reader(done.output.splitlines(keepends=True))
        found |= {(word, (catalog, oid), name) for word, catalog, oid, name in rows}
    return sorted(found)


def keyed(contents: Iterable[str]) -> Iterator[tuple[Key, str]]:
    """The lines of a table of contents that are of an object in a catalog, each with its key."""
    for line in contents:
        found = re.match(r"\d+; ([1-9]\d*) (\d+) ", line)
        if found:
            yield (found[1], found[2]), line


def make(needed: Needed, source: Mapping[str, str], place: Workplace, directory: Path) -> Failure | None:
    """Make the objects; the first failure. It matters only if the dump cannot be restored either: what earlier steps
    have made is left as it is.
    """
    if not needed.objects:
        return None
    path = directory / "needed"
    only = ("--format=custom", "--schema-only", "--exclude-table=*.*", "--no-publications", "--no-subscriptions")
    done = programs.run_against(source, place, "pg_dump", *only, f"--file={path}", "--no-password", cwd=place.root)
    if done.status:
        return Failure(path.name, masked(done.errors).removeprefix("pg_dump: error: ").strip())
    chosen = [line for key, line in keyed(dump.contents(path, place)) if key in needed.objects]
    return dump.restore(path, place, dump.listed(chosen, directory / "needed.list"), stop=False)
