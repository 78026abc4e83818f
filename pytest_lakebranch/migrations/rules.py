"""What is wrong with a migration while an application of the version before is still at work (expand, then contract).

Everything but Squawk's findings was measured on the branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_lakebranch.migrations.observation import Observation
from pytest_lakebranch.schema.diff import SchemaDiff

ADDS_AND_DROPS = "adds-and-drops"
REQUIRED = "adding-required-field"
REWRITE = "table-rewrite"
INDEX = "require-concurrent-index-creation"
RULES = (ADDS_AND_DROPS, REQUIRED, REWRITE, INDEX)
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
    for column in seen.required:
        yield Finding(
            REQUIRED,
            f"column {column.name} of {column.table} ({column.rows:,} rows) is NOT NULL from the start and has no "
            "default: the application of the version before cannot insert any more.",
            "Add it with a default, or nullable; fill it; add NOT NULL in a later migration.",
        )
    locks = {lock.table: lock for lock in seen.locks}
    for rewrite in seen.rewrites:
        lock = f" under {locks[rewrite.table]}" if rewrite.table in locks else ""
        yield Finding(
            REWRITE,
            f"all rows of {rewrite} were written again{lock}.",
            "Add a new column, fill it in batches, and change over in a later migration.",
        )
    for index in seen.indexes:
        if index.alone:
            yield Finding(
                INDEX,
                f"{index.name} was built while nobody could write to {index.table} ({index.rows:,} rows)"
                + (f": {locks[index.table]}." if index.table in locks else "."),
                "CREATE INDEX CONCURRENTLY, in a migration that runs outside of a transaction.",
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
