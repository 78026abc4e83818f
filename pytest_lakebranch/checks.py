"""The checks that each migration goes through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import BaseError, MigrationError
from pytest_lakebranch.migrations import data, rules, squawk
from pytest_lakebranch.migrations.data import Print
from pytest_lakebranch.migrations.observation import Observation
from pytest_lakebranch.rehearsal import Planned, Rehearsal, Stage
from pytest_lakebranch.schema.diff import SchemaDiff, compare
from pytest_lakebranch.schema.model import Schema

Check = Callable[["Checks", Planned], Observation]


class Irreversible(Exception):  # noqa: N818  (not an error: what a migration is declared to be)
    """The migration cannot be rolled back, and says so."""


class Checks:
    """Tries migrations out, and remembers what the first application of the last one did."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._stage = stage
        self._settings = settings
        self._last: tuple[Planned, Observation, SchemaDiff] | None = None

    def applies(self, planned: Planned) -> Observation:
        """It can be applied. Raises MigrationError with what the server said."""
        return self._applied(planned)[0]

    def lint(self, planned: Planned) -> Observation:
        """An application of the version before can go on working while it is applied, and afterwards."""
        seen, diff = self._applied(planned)
        root = Path(self._settings.root)
        found = [*rules.findings(diff, seen), *squawk.findings(seen.statements, root=root)]
        left = rules.allowed(found, self._settings.check_migrations_allow, planned.migration.revision)
        if left:
            raise MigrationError(
                f"migration {planned.label} is not safe while an application of the version before is running:\n"
                + "".join(f"\n- {one}\n" for one in left)
                + f"\nmeasured: {measured(seen)}"
            )
        return seen

    def idempotent(self, planned: Planned) -> Observation:
        """Applied again, it changes nothing any more: neither the schema nor a row of a table.

        What sequences have reached does not count: ``INSERT … ON CONFLICT DO NOTHING`` moves them each time.
        """
        with self._stage.fork(planned) as branch:
            rehearsal = Rehearsal(self._stage, planned, lambda: branch)
            _first(rehearsal, planned)
            schema, before = _state(rehearsal)
            try:
                seen = rehearsal.apply()
            except BaseError as error:
                raise MigrationError(
                    f"migration {planned.label} cannot be applied again, which is needed where it was interrupted:\n"
                    f"{error}\nWrite it with IF NOT EXISTS, IF EXISTS and ON CONFLICT, or in one transaction."
                ) from None
            after = _state(rehearsal)
            _same(f"migration {planned.label} changes something when it is applied again", (schema, before), after)
            return seen

    def reversible(self, planned: Planned) -> Observation:
        """Rolled back, all is as before, but for the values of columns that it touches; and it can be applied again.

        Raises Irreversible when the migration is declared so.
        """
        if not planned.migration.reversible:
            raise Irreversible(f"migration {planned.label} is declared irreversible, or nothing undoes it")
        with self._stage.fork(planned) as branch:
            rehearsal = Rehearsal(self._stage, planned, lambda: branch)
            original = branch.schema()
            with self._stage.before(planned).connect(autocommit=True) as connection:
                untouched, rows = _untouched(rehearsal, planned, original, connection)
            forward = branch.schema()
            seen = _undone(rehearsal, planned)
            with rehearsal.connection() as connection:
                now = data.prints(connection, data.in_both(untouched, data.columns_of(branch.schema())))
            _same(f"migration {planned.label}, rolled back, leaves something", (original, rows), (branch.schema(), now))
            _first(rehearsal, planned, "cannot be applied again after it was rolled back")
            _same(f"migration {planned.label} leads elsewhere after a rollback", (forward, {}), (branch.schema(), {}))
            return seen

    def _applied(self, planned: Planned) -> tuple[Observation, SchemaDiff]:
        if self._last is None or self._last[0] != planned:
            with self._stage.fork(planned) as branch:
                rehearsal = Rehearsal(self._stage, planned, lambda: branch)
                seen = _first(rehearsal, planned)
                assert rehearsal.diff is not None  # noqa: S101  (it was applied)
                self._last = (planned, seen, rehearsal.diff)
        return self._last[1:]


ALL: dict[str, Check] = {
    "applies": Checks.applies,
    "idempotent": Checks.idempotent,
    "reversible": Checks.reversible,
    "lint": Checks.lint,
}


def _first(rehearsal: Rehearsal, planned: Planned, what: str = "cannot be applied") -> Observation:
    try:
        return rehearsal.apply()
    except BaseError as error:
        raise MigrationError(f"migration {planned.label} {what}:\n{error}") from None


def _undone(rehearsal: Rehearsal, planned: Planned) -> Observation:
    try:
        return rehearsal.rollback()
    except BaseError as error:
        raise MigrationError(f"migration {planned.label} cannot be rolled back:\n{error}") from None


def _untouched(
    rehearsal: Rehearsal, planned: Planned, original: Schema, before: Any
) -> tuple[dict[str, tuple[str, ...]], dict[str, Print]]:
    """Apply it; the columns that it neither drops nor changes, and what was in them before.

    A fork's unlogged tables are empty, whatever is in those of ``before``.
    """
    _first(rehearsal, planned)
    after = rehearsal.branch.schema().things
    touched = {key[1] for key, thing in original.things.items() if key[0] == "column" and after.get(key) != thing}
    columns = {
        table: tuple(column for column in names if f"{table}.{column}" not in touched)
        for table, names in data.columns_of(original).items()
        if ("table", table) in after
    }
    unlogged = {thing.name for thing in original if "unlogged" in thing.facts} & columns.keys()
    logged = {table: names for table, names in columns.items() if table not in unlogged}
    return columns, {**data.prints(before, logged), **dict.fromkeys(unlogged, data.EMPTY)}


def _state(rehearsal: Rehearsal) -> tuple[Schema, dict[str, Print]]:
    schema = rehearsal.branch.schema()
    with rehearsal.connection() as connection:
        return schema, data.prints(connection, data.columns_of(schema))


def _same(what: str, before: tuple[Schema, dict[str, Print]], after: tuple[Schema, dict[str, Print]]) -> None:
    """Raise MigrationError naming each difference."""
    diff = compare(before[0], after[0])
    lines = [f"    {line}" for line in diff.text().splitlines()] if diff else []
    lines += [f"    {line}" for line in data.differences(before[1], after[1])]
    if lines:
        raise MigrationError("\n".join([f"{what}:", *lines]))


def measured(seen: Observation) -> str:
    """What was measured, in one line."""
    parts = [f"{seen.duration * 1e3:.0f} ms", f"{seen.wal_bytes:,} bytes of log"]
    parts += [str(lock) for lock in seen.locks if lock.stops][:3]
    parts += [f"rewritten: {', '.join(str(one) for one in seen.rewrites)}"] if seen.rewrites else []
    return "; ".join(parts)
