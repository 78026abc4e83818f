"""Watching a database while a migration works on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.migrations import triggers
from pytest_lakebranch.migrations.holds import Key, Sample, Sighting, longest
from pytest_lakebranch.migrations.observation import MODES, IndexMade, Lock, Observation
from pytest_lakebranch.migrations.tables import Column, Table, Tables
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import connect

PERIOD = 0.001
"""Seconds between two looks at the locks."""
_HELD = """
SELECT extract(epoch FROM clock_timestamp())::float8, pid, relation::bigint, mode FROM pg_locks
WHERE locktype = 'relation' AND granted AND relation >= 16384 AND pid <> pg_backend_pid()
"""
_LSN = "SELECT pg_current_wal_insert_lsn()"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
_END = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %s)::bigint, extract(epoch FROM clock_timestamp())::float8"


@dataclass(slots=True)
class Sampler:
    """Looks at all locks again and again, in a thread; notes when they change, or why it could not go on."""

    endpoint: Endpoint
    samples: list[Sample] = field(default_factory=list)
    failed: Exception | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """The thread."""
        try:
            self._look()
        except Exception as error:  # noqa: BLE001  (whatever it is: the other thread raises it)
            self.failed = error

    def _look(self) -> None:
        with closing(connect(self.endpoint, autocommit=True, prepare_threshold=0)) as connection:
            while not self._over.wait(PERIOD):
                rows = connection.execute(_HELD).fetchall()
                at = rows[0][0] if rows else connection.execute(_NOW).fetchone()[0]  # type: ignore[index]  # one row
                held = frozenset(Key(pid, table, mode) for _, pid, table, mode in rows)
                if not self.samples or self.samples[-1].held != held:
                    self.samples.append(Sample(at, held))

    @contextmanager
    def looking(self) -> Iterator[None]:
        """The thread lives as long as the block."""
        thread = threading.Thread(target=self.run, name="lakebranch-locks", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


@dataclass(slots=True)
class Watch:
    """What is known when the block of :func:`watching` has ended."""

    observation: Observation = field(default_factory=Observation)


@contextmanager
def watching(admin: Endpoint, watch: Watch) -> Iterator[None]:
    """Measure what the block does to the database of ``admin``, whose role is a superuser.

    Also when the block raises, as far as that can be told then; the database has nothing of ours any more. BaseError
    when the block does not raise and what it did cannot be measured.
    """
    import psycopg

    with closing(connect(admin, autocommit=True)) as connection:
        connection.execute(triggers.INSTALL)
        tables = Tables.seen(connection)
        sampler = Sampler(admin)
        lsn = connection.execute(_LSN).fetchone()
        began = time.monotonic()
        try:
            with sampler.looking():
                yield
        except BaseException:
            with suppress(psycopg.Error):  # the server may be gone, which is what the block raised
                watch.observation = _collected(connection, tables, sampler, time.monotonic() - began, lsn)
            raise
        try:
            watch.observation = _collected(connection, tables, sampler, time.monotonic() - began, lsn)
        except psycopg.Error as error:
            raise _unmeasured(error) from error
        if sampler.failed is not None:
            raise _unmeasured(sampler.failed) from sampler.failed


def _unmeasured(error: Exception) -> BaseError:
    return BaseError(f"what the migration did to the branch cannot be measured: {str(error).strip()}")


def _collected(connection: Any, before: Tables, sampler: Sampler, duration: float, lsn: Any) -> Observation:
    written, end = connection.execute(_END, lsn).fetchone()  # first: what follows takes its time
    notes = [_Note(*row) for row in connection.execute(triggers.NOTES)]
    ended = [note for note in notes if note.event == "ddl_command_end"]
    rewrites = tuple(before.rewritten(connection, _reasons(notes)))
    observation = Observation(
        duration,
        written,
        tuple(_locks(longest(sampler.samples, _sightings(notes), end), before.tables)),
        rewrites,
        (*_indexes(ended, before.tables), *before.rebuilt(connection, rewrites)),
        tuple(before.newly_required(connection, _defaults(ended))),
        tuple(_statements(ended)),
    )
    connection.execute(triggers.REMOVE)
    return observation


@dataclass(frozen=True, slots=True)
class _Note:
    at: float
    pid: int
    event: str
    tag: str
    statement: str | None
    facts: dict[str, Any]

    @property
    def locks(self) -> list[tuple[int, str]]:
        return [(table, mode) for table, mode in self.facts.get("locks") or ()]


def _sightings(notes: Sequence[_Note]) -> Iterator[Sighting]:
    """A lock that a command ended with was taken after the command began, if it was not held then."""
    began: dict[int, float] = {}
    for note in notes:
        since = began.get(note.pid, note.at) if note.event == "ddl_command_end" else note.at
        for table, mode in note.locks:
            yield Sighting(since, note.at, Key(note.pid, table, mode))
        began[note.pid] = note.at


def _locks(held: Mapping[Key, float], tables: Mapping[int, Table]) -> list[Lock]:
    """The strongest of each table, the strongest and longest first."""
    found: dict[int, tuple[int, float]] = {}
    for key, seconds in held.items():
        if key.table in tables:
            found[key.table] = max(found.get(key.table, (-1, 0.0)), (MODES.index(key.mode), seconds))
    ordered = sorted(found.items(), key=lambda pair: (-pair[1][0], -pair[1][1], tables[pair[0]].name))
    return [Lock(tables[oid].name, MODES[mode], seconds, tables[oid].rows) for oid, (mode, seconds) in ordered]


def _reasons(notes: Sequence[_Note]) -> dict[int, str]:
    """Why tables were rewritten, as far as an event trigger was told; the first reason of each counts."""
    found: dict[int, str] = {}
    for note in notes:
        if "reason" in note.facts:
            bits = note.facts["reason"]
            reason = ", ".join(text for bit, text in triggers.REWRITE_REASONS.items() if bits & bit)
            found.setdefault(note.facts["table"], reason)
    return found


def _indexes(ended: Sequence[_Note], tables: Mapping[int, Table]) -> Iterator[IndexMade]:
    for note in ended:
        for name, oid in note.facts.get("indexes") or ():
            if oid in tables:
                alone = (oid, "ShareLock") in note.locks
                yield IndexMade(name, tables[oid].name, alone, tables[oid].rows)


def _defaults(ended: Sequence[_Note]) -> frozenset[Column]:
    """Columns that had a default, if only for a while."""
    return frozenset(Column(*one) for note in ended for one in note.facts.get("defaults") or ())


def _statements(ended: Sequence[_Note]) -> list[str]:
    """A statement that does several things is noted several times in a row."""
    texts = [note.statement.strip().rstrip(";") for note in ended if note.statement]
    return [text for number, text in enumerate(texts) if not number or texts[number - 1] != text]
