"""One postmaster: started, awaited, watched, stopped; and our control connection to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from pytest_lakebranch.errors import BranchError, LakebranchError, MachineError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.disk import FULL_IN_LOG, disk_full
from pytest_lakebranch.providers.local.processes import Group
from pytest_lakebranch.providers.local.server_settings import of_our_sessions
from pytest_lakebranch.providers.local.storage.base import Place
from pytest_lakebranch.segments import remove_segment
from pytest_lakebranch.state import PORT
from pytest_lakebranch.waiting import Deadline, poll

if TYPE_CHECKING:
    import psycopg
    from psycopg import pq

READY_SECONDS = 60.0
STOP_SECONDS = 300.0
"""How long a clean shutdown may take: it writes all of shared buffers."""
STATUS_LINE = 7
"""Of postmaster.pid, from 0 (LOCK_FILE_LINE_PM_STATUS, pidfile.h)."""
CAUSES = ("PANIC:", r"was terminated by signal|exited with exit code", r"received .* shutdown request")
"""What the log says of a server's end, the most telling first: its last line is always that it is shut down."""
CONTROL = {
    "lock_timeout": "5000",  # milliseconds after which it gives up on what a client has locked
    "plan_cache_mode": "force_generic_plan",  # the same few statements again and again
    "jit": "off",
}
"""Settings of the control connection, beyond those of all our sessions."""
SUPERUSER = "postgres"
MAINTENANCE = "postgres"


class Running(Protocol):
    """What it takes to work on a server: it may be another process's."""

    @property
    def name(self) -> str:
        """The branch's."""

    @property
    def data(self) -> Path:
        """The data directory, as this process can open it."""

    def endpoint(self, dbname: str) -> Endpoint:
        """Where to reach a database, as a superuser."""


def session(
    server: Running, dbname: str, settings: Mapping[str, str] = MappingProxyType({}), **kwargs: Any
) -> psycopg.Connection[Any]:
    """A connection for work of our own, which no setting of the user's changes; keyword arguments are psycopg's."""
    major = int((server.data / "PG_VERSION").read_text())
    given = {**of_our_sessions(major), **settings}
    options = " ".join(f"-c {name}={value}" for name, value in given.items())
    return connect(server.endpoint(dbname), autocommit=True, options=options, **kwargs)


@dataclass(slots=True)
class Server:
    """A postmaster, and our own connection to it: as superuser, in the maintenance database."""

    name: str
    process: subprocess.Popen[bytes]
    place: Place
    sockets: Path
    user_settings: Mapping[str, str]
    connection: psycopg.Connection[Any] | None = field(default=None)
    session_pid: int = 0
    """The server process of the control connection: a connection that is over does not tell it any more."""
    sealed_until: int | None = None
    """The time, in nanoseconds of the files' clock, when its files were still those of a layer; None for others."""
    _prepared: dict[str, bytes] = field(default_factory=dict)
    _folder: int | None = None

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self.process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the postmaster runs."""
        return self.process.poll() is None

    def _group(self) -> Group:
        return Group.of(self.pid if self.is_alive else None, self.place.data)

    @property
    def control(self) -> psycopg.Connection[Any]:
        """The control connection; there is one between :meth:`open_control` and stopping."""
        if self.connection is None:
            raise BranchError(f"{self.name}: its server has been stopped.")
        return self.connection

    @property
    def data(self) -> Path:
        """The data directory, as this process can open it while the server lives."""
        return self.place.data_seen_from_outside(self.pid)

    @property
    def folder(self) -> int:
        """A descriptor of :attr:`data`, kept until the server is stopped: the way by its path leads through /proc and
        costs more than what is done there on every lease. Raises OSError when the server is gone.
        """
        if self._folder is None:
            self._folder = os.open(self.data, os.O_RDONLY | os.O_DIRECTORY)
        return self._folder

    def endpoint(self, dbname: str, user: str = SUPERUSER) -> Endpoint:
        """Where to reach a database of this server."""
        return Endpoint(str(self.sockets), PORT, user, dbname)

    def wait_ready(self) -> None:
        """Wait until the server accepts connections; raises BranchError or MachineError with the log."""
        deadline = Deadline(READY_SECONDS)
        # In short stretches: a single long one would look every few milliseconds only by the time it matters.
        while not deadline.passed and not poll(self._is_ready, deadline=Deadline(0.01)):
            pass
        if deadline.passed:
            raise BranchError(
                f"the server of {self.name} was not ready after {READY_SECONDS:.0f} s. Its log ends:\n{self.log_tail()}"
            )

    def _is_ready(self) -> bool | None:
        """What the server says of itself: asking by connecting costs it a process each time."""
        if not self.is_alive:
            raise self.start_failure()
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return None
        return True if len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready" else None

    def open_control(self) -> None:
        """Open the control connection; raises BranchError."""
        import psycopg

        self._prepared.clear()
        try:
            self.connection = session(self, MAINTENANCE, CONTROL, prepare_threshold=0)
        except (psycopg.OperationalError, OSError) as error:
            raise BranchError(f"the server of {self.name} refuses its own superuser: {error}{self._blame()}") from error
        self.session_pid = self.connection.info.backend_pid

    def start_failure(self) -> LakebranchError:
        """The error for a server that ended while it started: its own words first."""
        tail = self.log_tail()
        if FULL_IN_LOG in tail:
            return disk_full(self.place.directory, f"starting {self.name}")
        fatal = [line for line in tail.splitlines() if "FATAL" in line or "PANIC" in line]
        said = fatal[-1] if fatal else tail or "(nothing in its log)"
        kind = MachineError if self.user_settings else BranchError
        return kind(
            f"the server of {self.name} did not start (status {self.process.returncode}): {said}{self._blame()}"
        )

    def _blame(self) -> str:
        if not self.user_settings:
            return ""
        given = ", ".join(f"{name}={value}" for name, value in self.user_settings.items())
        return f"\nIt was started with lakebranch_settings: {given}. Check these first."

    def last_words(self) -> str:
        """Why the server ended, as far as its log tells: a line of it; empty where it has none."""
        lines = [line for line in self.log_tail().splitlines() if line.strip()]
        told = (next((line for line in reversed(lines) if re.search(cause, line)), "") for cause in CAUSES)
        return next(filter(None, told), lines[-1] if lines else "")

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        try:
            with self.place.log.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def stop_cleanly(self, seconds: float = STOP_SECONDS) -> None:
        """End all sessions, write everything to the data files and stop; raises BranchError when that fails."""
        self.close_connection()
        self._close_folder()
        with self._group() as group:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            status = poll(self.process.poll, deadline=Deadline(seconds), every=0.002)
            if status != 0:
                raise BranchError(f"the server of {self.name} did not stop cleanly ({status}):\n{self.log_tail()}")
            group.end()

    def stop_at_once(self) -> bool:
        """Stop without writing anything, and wait until the last process is gone. Idempotent.

        Returns whether the server was alive and did end by itself, so that nothing of it can be running on.
        """
        was_alive = self.is_alive
        with self._group() as group:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            if poll(self.process.poll, deadline=Deadline(10.0)) is None:
                self.process.kill()
                self.process.wait()
                was_alive = False
            self.close_connection()
            self._close_folder()
            killed = self.process.returncode < 0  # by somebody else, just when it was told: its children went as well
            sound = group.end() == 0 and was_alive and not killed
        if not sound:
            remove_segment(self.place.data)
        return sound

    def close_connection(self) -> None:
        """Close the control connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def _close_folder(self) -> None:
        """An overlay would stay mounted for as long as somebody holds one of its directories."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def query(self, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Run one statement on the control connection."""
        return self.control.execute(sql, args or None).fetchall()

    def ask(self, sql: str, *args: str) -> list[tuple[str | None, ...]]:
        """Run one statement on the control connection as it comes, ``$1`` … being text: its rows, as text.

        For what is asked on every lease: the statement is prepared once, and a row costs no more than libpq takes.
        Raises psycopg.Error.
        """
        from psycopg import errors, pq

        connection = self.control.pgconn
        if sql not in self._prepared:
            self._prepare(connection, sql)
        done = connection.exec_prepared(self._prepared[sql], [value.encode() for value in args])
        if done.status != pq.ExecStatus.TUPLES_OK:
            raise errors.error_from_result(done)
        return [
            tuple(_text(done.get_value(row, column)) for column in range(done.nfields)) for row in range(done.ntuples)
        ]

    def _prepare(self, connection: pq.abc.PGconn, sql: str) -> None:
        from psycopg import errors, pq

        name = f"lakebranch{len(self._prepared)}".encode()
        done = connection.prepare(name, sql.encode())
        if done.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(done)
        self._prepared[sql] = name

    def plan(self, sql: str, *args: str) -> None:
        """Have a statement for :meth:`ask` prepared and planned, without running it."""
        self._prepare(self.control.pgconn, sql)
        values = ", ".join(f"'{value}'" for value in args)
        self.control.execute(f"explain execute {self._prepared[sql].decode()} ({values})", prepare=False)


def server_command(postgres: str, data: Path, flags: Sequence[str]) -> list[str]:
    """The command line of a server on ``data``."""
    return [postgres, "-D", str(data), *flags]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
