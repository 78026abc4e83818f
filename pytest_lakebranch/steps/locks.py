"""A step that waits for a lock too long: ended, and told who holds the lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import indented, shortened

if TYPE_CHECKING:
    import psycopg

MAINTENANCE = "postgres"
"""The database that the watch connects to: a step may drop or rename its own."""
LOOK_SECONDS = 1.0
WAITING = """
SELECT w.pid, w.query, b.pid, b.application_name, b.state, b.query,
    extract(epoch FROM clock_timestamp() - coalesce(b.xact_start, x.prepared)), quote_literal(x.gid)
FROM pg_locks l JOIN pg_stat_activity w ON w.pid = l.pid
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) blocker (pid) LEFT JOIN pg_stat_activity b ON b.pid = blocker.pid
LEFT JOIN LATERAL (
    SELECT p.gid, p.prepared
    FROM pg_locks h JOIN pg_locks own ON own.virtualtransaction = h.virtualtransaction
    JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
    WHERE h.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
    AND (h.locktype, h.database, h.relation, h.page, h.tuple, h.transactionid, h.classid, h.objid, h.objsubid)
    IS NOT DISTINCT FROM
    (l.locktype, l.database, l.relation, l.page, l.tuple, l.transactionid, l.classid, l.objid, l.objsubid)
    ORDER BY p.prepared LIMIT 1) x ON blocker.pid = 0
WHERE NOT l.granted AND l.waitstart < clock_timestamp() - make_interval(secs => %s)
AND (b.pid IS NOT NULL OR x.gid IS NOT NULL)"""
"""Who waits, and for whom: a process, or a prepared transaction, which has none (pg_blocking_pids() says 0)."""


@dataclass(slots=True)
class _Watch:
    """Looks once a second, from another thread, at who waits on the server; connects when that is first due."""

    place: Workplace
    seconds: float
    over: threading.Event = field(default_factory=threading.Event)
    found: str = ""

    def run(self) -> None:
        """Look until it is over, or the server is gone."""
        import psycopg

        if self.over.wait(min(LOOK_SECONDS, self.seconds)):
            return
        try:
            with closing(connect(replace(self.place.endpoint, dbname=MAINTENANCE), autocommit=True)) as conn:
                self._look(conn)
                while not self.over.wait(min(LOOK_SECONDS, self.seconds)):
                    self._look(conn)
        except psycopg.Error:  # what became of the server is the step's to find out
            return

    def _look(self, conn: psycopg.Connection[Any]) -> None:
        for waiting, wanted, *holder in conn.execute(WAITING, [self.seconds]).fetchall():
            self.found = self.found or _told(wanted, holder)
            conn.execute("SELECT pg_cancel_backend(%s)", [waiting])


def _told(wanted: str, holder: list[Any]) -> str:
    *process, seconds, prepared = holder
    age = "" if seconds is None else f" of {float(seconds):.0f} s"
    held = _by_process(process, age) if prepared is None else _by_prepared(prepared, age)
    return (
        f"{indented(shortened(masked(wanted)))}\nIt is held by {held} "
        "lakebranch_lock_timeout is how long a step may wait."
    )


def _by_process(process: list[Any], age: str) -> str:
    pid, application, state, query = process
    since = f", in a transaction{age}" if age else ""
    return (
        f"process {pid} ({application or 'without a name'}, {state}{since}), whose last statement is\n"
        f"{indented(shortened(masked(query)))}\n"
        "Commit or roll back that transaction before the step needs the lock: code that a migration imports may hold a "
        "connection of its own."
    )


def _by_prepared(name: str, age: str) -> str:
    return (
        f"the prepared transaction {name}{age}, which belongs to no process.\n"
        f"End it before the step needs the lock: COMMIT PREPARED {name} or ROLLBACK PREPARED {name}."
    )


@contextmanager
def watched(place: Workplace, label: str, *, seconds: float) -> Iterator[None]:
    """Cancel statements that wait for a lock longer than ``seconds`` while the block runs.

    BaseError, if the block fails then, says what waited and who holds the lock.
    """
    watch = _Watch(place, seconds)
    thread = threading.Thread(target=watch.run, name="locks", daemon=True)
    thread.start()
    try:
        yield
    except Exception as error:
        if watch.found:
            raise BaseError(f"{label} waited for a lock for {seconds:g} s with\n{watch.found}") from error
        raise
    finally:
        watch.over.set()
        thread.join()
