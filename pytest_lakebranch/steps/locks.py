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
SELECT w.pid, w.query, b.pid, b.application_name, b.state, b.query, extract(epoch FROM clock_timestamp() - b.xact_start)
FROM pg_locks l JOIN pg_stat_activity w ON w.pid = l.pid
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) blocker (pid) JOIN pg_stat_activity b ON b.pid = blocker.pid
WHERE NOT l.granted AND l.waitstart < clock_timestamp() - make_interval(secs => %s)"""


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
    pid, application, state, query, seconds = holder
    age = "" if seconds is None else f", in a transaction of {float(seconds):.0f} s"
    return (
        f"{indented(shortened(masked(wanted)))}\n"
        f"It is held by process {pid} ({application or 'without a name'}, {state}{age}), whose last statement is\n"
        f"{indented(shortened(masked(query)))}\n"
        "Commit or roll back that transaction before the step needs the lock: code that a migration imports may hold a "
        "connection of its own. lakebranch_lock_timeout is how long a step may wait."
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
