"""What is wrong with a migration while an application of the version before is still at work (expand, then contract).

Everything but Squawk's findings was measured on the branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_lakebranch.migrations.observation import (
    MAINTAINED,
    REFRESHED,
    TRUNCATED,
    IndexMade,
    Lock,
    Observation,
    RequiredColumn,
    Rewrite,
)
from pytest_lakebranch.schema.diff import SchemaDiff

ADDS_AND_DROPS = "adds-and-drops"
REQUIRED = "adding-required-field"
REWRITE = "table-rewrite"
INDEX = "require-concurrent-index-creation"
REINDEX = "require-concurrent-reindex"
RULES = (ADDS_AND_DROPS, REQUIRED, REWRITE, INDEX, REINDEX)
"""Those that also Squawk knows have its names."""
_HOLDS_DATA = ("table", "column")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, and what to do instead."""

    rule: str
    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}\n    {self.instead}".rstrip()


def findings(diff: SchemaDiff, seen: Observation) -> Iterator[Finding]:
    """What is wrong, by what was measured; ``diff`` is what the migration did to the schema."""
    yield from _adds_and_drops(diff)
    yield from map(_required, seen.required)
    locks = {lock.table: lock for lock in seen.locks}
    yield from (_rewritten(one, locks.get(one.table)) for one in seen.rewrites)
    yield from (_built(one, locks.get(one.table)) for one in seen.indexes if one.alone)


def _required(column: RequiredColumn) -> Finding:
    where = f"column {column.name} of {column.table} ({column.rows:,} rows)"
    if column.added:
        return Finding(
            REQUIRED,
            f"{where} is new, may not be NULL and has no default in the end: the application of the version before "
            "does not know it, and cannot insert any more.",
            "Add it with a default that stays (Django: db_default=), or nullable; fill it; add NOT NULL in a later "
            "migration.",
        )
    return Finding(
        REQUIRED,
        f"{where} may not be NULL any more, or has lost its default: where the application of the version before gives "
        "it no value, it cannot insert any more.",
        "Have that version always write it first; if it does, allow it in this migration: "
        f"lakebranch_check_migrations_allow = REVISION:{REQUIRED}.",
    )


_REWRITES = {
    TRUNCATED: (
        "all rows of {} were removed at once{}.",
        "What the application of the version before still reads is left to a later migration; DELETE in batches stops "
        "nobody.",
    ),
    REFRESHED: (
        "{} was filled anew{}.",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index; or leave it to what else refreshes it.",
    ),
    MAINTAINED: (
        "all rows of {} were written again{}.",
        "The schema does not need that: leave it to maintenance, with a tool that lets others go on (pg_repack).",
    ),
}
_REWRITTEN = (
    "all rows of {} were written again{}.",
    "Add a new column, fill it in batches, and change over in a later migration.",
)


def _rewritten(rewrite: Rewrite, lock: Lock | None) -> Finding:
    what, instead = _REWRITES.get(rewrite.reason, _REWRITTEN)
    return Finding(REWRITE, what.format(rewrite, f" under {lock}" if lock else ""), instead)


def _built(index: IndexMade, lock: Lock | None) -> Finding:
    rule, command, again = (REINDEX, "REINDEX", " again") if index.again else (INDEX, "CREATE INDEX", "")
    return Finding(
        rule,
        f"{index.name} was built{again} while nobody could write to {index.table} ({index.rows:,} rows)"
        + (f": {lock}." if lock else "."),
        f"{command} CONCURRENTLY, in a migration that runs outside of a transaction.",
    )


def _adds_and_drops(diff: SchemaDiff) -> Iterator[Finding]:
    added = [entry for entry in diff.entries if entry.sign == "+" and entry.thing.kind in _HOLDS_DATA]
    dropped = [entry for entry in diff.entries if entry.sign == "-" and entry.thing.kind in _HOLDS_DATA]
    if added and dropped:
        names = ", ".join(entry.title for entry in added), ", ".join(entry.title for entry in dropped)
        hint = " It looks like a rename." if any(entry.hint for entry in dropped) else ""
        yield Finding(
            ADDS_AND_DROPS,
            f"it adds {names[0]} and drops {names[1]} in one step, so neither version of the application works "
            f"with the other's schema.{hint}",
            "Expand first: add, and write to both. Contract later: drop, when nothing uses it any more.",
        )


def allowed(found: Iterable[Finding], allow: Iterable[str], revision: str) -> list[Finding]:
    """What is left without what is allowed: ``RULE`` everywhere, ``REVISION:RULE`` in one migration."""
    names = set(allow)
    return [one for one in found if not {one.rule, f"{revision}:{one.rule}"} & names]
