"""A Lakebase branch that can be logged in to, reached through a unix socket of ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import Endpoint, ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.postgres.forwarder import Forwarder, listen_in
from pytest_lakebranch.providers.lakebase.api import SUSPEND_SECONDS
from pytest_lakebranch.providers.lakebase.project import DATABASE
from pytest_lakebranch.providers.lakebase.upstream import Door
from pytest_lakebranch.state import PORT
from pytest_lakebranch.waiting import Deadline, poll

if TYPE_CHECKING:
    import psycopg

OTHERS = """from pg_stat_activity
    where usename = session_user and backend_type = 'client backend' and pid <> pg_backend_pid()"""
"""All clients log in as we do. One that has hung up is not seen by the forwarder while its statement still runs."""
STATE = f"""select pg_snapshot_xmax(pg_current_snapshot())::text, (select count(*) from pg_prepared_xacts),
    (select count(*) from pg_replication_slots), (select count(*) {OTHERS})"""  # noqa: S608  (parts of our own)
END_OTHERS = f"select count(pg_terminate_backend(pid)) {OTHERS}"
POSITION = "select pg_current_wal_insert_lsn()::text"
LIVING = "select count(*) from pg_stat_activity where pid = any(%s)"
END = "select pg_terminate_backend(pid) from pg_stat_activity where pid = any(%s)"
LEAVE_SECONDS, END_SECONDS = 2.0, 10.0
MAINTENANCE = "postgres"
"""The database of our own connection: tests drop theirs. Where it is closed to us, another one has to do."""
CLOSED = frozenset({"3D000", "42501", "55000"})
"""SQLSTATEs of a database that does not exist, is not for us, or takes no connections."""


class State(NamedTuple):
    """What moves when anything is written that another test could see: the next transaction's number, and what has
    none.
    """

    xid: str
    prepared: int
    slots: int

    def difference(self, later: State) -> str | None:
        """What was written until ``later``; None when nothing was."""
        if later.xid != self.xid:
            count = int(later.xid) - int(self.xid)
            return f"wrote in {count} transaction{'' if count == 1 else 's'}"
        return None if later == self else "prepared transactions or replication slots"


class Owner(Protocol):
    """What a compute needs of the provider that started it."""

    def fork_point(self, compute: LakebaseCompute, position: str) -> ForkPoint:
        """Where branches of the compute's present start, which is at this position of its log."""

    def leave(self, compute: LakebaseCompute, until: float) -> float:
        """Let the branch live until then (seconds since 1970), and have nothing to do with it any more; until when it
        will live.

        Raises BranchError; then it is deleted.
        """

    def take_back(self, compute: LakebaseCompute) -> None:
        """Delete the branch, when nothing is forked from it any more. Idempotent."""


@dataclass(eq=False, slots=True)
class LakebaseCompute:
    """See Compute. ``path`` is the branch's, ``unlogged`` says that its base has sequences that leave no trace."""

    owner: Owner
    name: str
    path: str
    door: Door
    sockets: Path
    user: str
    dbname: str
    unlogged: bool = False
    now: Callable[[], float] = time.time
    _forwarder: Forwarder = field(init=False)
    _database: str = MAINTENANCE
    _others: list[str] = field(init=False)
    _control: psycopg.Connection[Any] | None = None
    _mark: State | None = None
    _seen: State | None = None
    _frozen: tuple[ForkPoint, State] | None = None
    _reason: str | None = None
    _heard: float = 0.0
    _asked: float | None = None
    _leased: bool = False
    _unended: bool = False
    _closed: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self._others = [DATABASE, self.dbname]
        self.sockets.mkdir(mode=0o700)
        self._forwarder = Forwarder(listen_in(self.sockets), self.door, name=f"branch {self.name}")
        self._forwarder.open()

    @property
    def endpoint(self) -> Endpoint:
        """See Compute."""
        return Endpoint(str(self.sockets), PORT, self.user, self.dbname)

    @property
    def admin(self) -> Endpoint:
        """See Compute. The role that the branch's API identity has: as near to a superuser as the service has."""
        return Endpoint(str(self.sockets), PORT, self.door.identity, self.dbname)

    @property
    def maintenance(self) -> Endpoint:
        """Where roles and databases are made: as the branch's API identity, and not in the tests' database."""
        return Endpoint(str(self.sockets), PORT, self.door.identity, self._database)

    @property
    def has_clients(self) -> bool:
        """Whether anybody but us is connected."""
        return self._forwarder.remain(self._own_pid())

    # -- our own connection

    def open_control(self) -> None:
        """Log in, which the endpoint may refuse for a while; raises psycopg.OperationalError."""
        import psycopg

        while True:
            try:
                self._control = connect(self.maintenance, autocommit=True)
                break
            except psycopg.OperationalError:
                if self.door.refused not in CLOSED or not self._others:
                    raise
                self._database = self._others.pop(0)
        self._heard = self.now()
        self.door.is_broken = self._is_cut_off

    def _is_cut_off(self) -> bool:
        """Whether our own connection was ended from the other side while its server had no time to be suspended."""
        return self._is_ended() and self.now() - self._heard < SUSPEND_SECONDS

    def _is_ended(self) -> bool:
        """Whether our own connection has the end, or the server's last words, to read."""
        line = self._own_line()
        if line is None:
            return False
        with line:
            try:
                return line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) in (b"", b"E")
            except OSError:  # nothing to read, as it should be
                return False

    def _own_line(self) -> socket.socket | None:
        """Our own connection, for who does not speak on it; None where there is none, or not any more."""
        import psycopg

        control = self._control
        try:
            return None if control is None or control.closed else socket.socket(fileno=os.dup(control.fileno()))
        except (psycopg.Error, OSError):  # another thread has closed it meanwhile
            return None

    def hang_up_if_silent(self, seconds: float) -> None:
        """Close our own connection from outside when it has been waiting for an answer for so long.

        Whoever waits gets an error then: a server that says nothing, and whose machine lives, would never end it.
        """
        asked = self._asked
        if asked is not None and time.monotonic() - asked > seconds and (line := self._own_line()) is not None:
            with line, contextlib.suppress(OSError):  # it has just ended by itself
                line.shutdown(socket.SHUT_RDWR)

    def rest(self) -> None:
        """Close our own connection, so that the endpoint can be suspended; the next lease opens it again."""
        with self._lock:
            control, self._control = self._control, None
        if control is not None:
            control.close()

    def rest_if_idle(self, seconds: float) -> None:
        """As :meth:`rest`, when nobody has the branch on lease and nothing was asked for this long.

        Whoever asks something just now is not waited for.
        """
        if self._lock.acquire(blocking=False):
            try:
                if not self._leased and self.now() - self._heard > seconds:
                    self.rest()
            finally:
                self._lock.release()

    def _query(self, sql: str, *args: object) -> tuple[Any, ...]:
        with self._lock:
            if self._closed:
                raise BranchError(f"branch {self.name} has been given back.")
            if self._is_ended() and not self._is_cut_off():
                self.rest()
            if self._control is None:
                self.open_control()
            assert self._control is not None  # noqa: S101  (opened above)
            self._asked = time.monotonic()
            try:
                row = self._control.execute(sql, args or None).fetchone()
            finally:
                self._asked = None
            self._heard = self.now()
        return tuple(row or ())

    def _state(self) -> State:
        return self._look()[0]

    def _state_awake(self) -> State:
        """The state; an endpoint that is put to sleep just as it is asked is asked again, which wakes it."""
        import psycopg

        try:
            return self._state()
        except psycopg.errors.AdminShutdown:
            self.rest()
            return self._state()

    def _look(self) -> tuple[State, int]:
        """The state, and how many others have a session."""
        *state, others = self._query(STATE)
        return State(*state), others

    # -- the lease

    def mark(self) -> None:
        """See Compute."""
        import psycopg

        try:
            state = self._state()
        except psycopg.Error as error:
            raise BranchError(f"branch {self.name} takes no connection: {line(error)}") from error
        if self._seen is not None and state != self._seen:
            raise BranchError(f"branch {self.name} was written to while nobody had it on lease")
        self._mark = self._seen = state
        self._leased, self._unended = True, False

    def end_connections(self, *, but: frozenset[int] = frozenset()) -> int:
        """See Compute."""
        import psycopg

        spared = but | self._own_pid()
        pids = list(self._forwarder.pids - spared)
        count = self._forwarder.cut(spared)
        try:
            if pids and not self._have_left(pids, LEAVE_SECONDS):
                self._query(END, pids)
                if not self._have_left(pids, END_SECONDS):
                    raise BranchError(f"branch {self.name}: a client's session cannot be ended")
        except psycopg.Error:
            self._unended = True
        return count

    def others_leave(self, seconds: float) -> bool:
        """Whether everybody but us is gone within so many seconds, also from the server. Raises psycopg.Error."""
        gone = poll(lambda: None if self._look()[1] else True, deadline=Deadline(seconds), every=0.002)
        return gone is not None

    def _have_left(self, pids: list[int], seconds: float) -> bool:
        gone = poll(lambda: None if self._query(LIVING, pids)[0] else True, deadline=Deadline(seconds), every=0.002)
        return gone is not None

    def _own_pid(self) -> frozenset[int]:
        import psycopg

        control = self._control
        try:
            return frozenset() if control is None else frozenset([control.info.backend_pid])
        except psycopg.Error:  # it is closed
            return frozenset()

    def change(self) -> str | None:
        """See Compute. The service's own writes may be taken for a client's, never the other way round."""
        import psycopg

        self._leased = False
        reasons = (
            (self._mark is None, "no lease has begun"),
            (self.has_clients, "a client is connected"),
            (self.unlogged, "unlogged sequences"),
            (self._is_cut_off(), "its server crashed"),
            (self._unended, "its clients could not be ended"),
        )
        reason = next((reason for holds, reason in reasons if holds), None)
        if reason is None and self._mark is not None:
            try:
                reason = self._difference(self._mark)
            except psycopg.Error as error:
                reason = f"its server cannot be reached: {line(error)}"
        self._reason = reason
        return reason

    def _difference(self, mark: State) -> str | None:
        self._seen, others = self._look()
        if others:
            if not self.others_leave(LEAVE_SECONDS):
                self._query(END_OTHERS)
                if not self.others_leave(END_SECONDS):
                    return "a statement still runs"
            self._seen = self._state()
        return mark.difference(self._seen)

    def death(self) -> str | None:
        """See Compute."""
        return "its server crashed" if self._is_cut_off() else None

    def keep(self, note: Kept) -> Kept:
        """See Compute. The branch stays in the project until its time has passed, and expires then."""
        self.close()
        return replace(note, until=self.owner.leave(self, note.until))

    @property
    def is_settled(self) -> bool:
        """See Compute."""
        return True

    def settle(self) -> None:
        """See Compute. There is nothing to do: no branch is rewound here."""

    def rewind(self) -> str | None:
        """See Compute. Nothing can be put back in place: what was changed is the reason."""
        return self._reason or "nothing can be put back in place"

    def fork_point(self) -> ForkPoint:
        """See Compute."""
        import psycopg

        try:
            before = self._state_awake()
            if self._frozen is not None and self._frozen[1] == before:
                return self._frozen[0]
            position = str(self._query(POSITION)[0])
        except psycopg.Error as error:
            raise BranchError(f"branch {self.name} cannot be forked: {line(error)}") from error
        self._frozen = (self.owner.fork_point(self, position), before)
        return self._frozen[0]

    def is_still(self, at: ForkPoint) -> bool:
        """Whether the present is what was frozen as ``at``."""
        import psycopg

        try:
            return self._frozen is not None and self._frozen[0] == at and self._state() == self._frozen[1]
        except psycopg.Error:
            return False

    def discard(self, *, disposable: bool = False) -> None:  # noqa: ARG002  (nothing of a branch is used again)
        """See Compute. The branch is deleted in the background."""
        self.close()
        self.owner.take_back(self)

    def close(self) -> None:
        """Take no more clients, and hang up. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.rest()
        self._forwarder.close()
        shutil.rmtree(self.sockets, ignore_errors=True)


def line(error: BaseException, which: int = 0) -> str:
    """One line of what an error says, the first where none is asked for; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[which] if lines else type(error).__name__
