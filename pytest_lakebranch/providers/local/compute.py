"""A branch whose server runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import Endpoint, ForkPoint
from pytest_lakebranch.providers.local import control_file
from pytest_lakebranch.providers.local.clients import Clients
from pytest_lakebranch.providers.local.freeze import PAGE_HEADER, Backup
from pytest_lakebranch.providers.local.processes import Footprint
from pytest_lakebranch.providers.local.rewind import wal
from pytest_lakebranch.providers.local.rewind.knowledge import learn
from pytest_lakebranch.providers.local.rewind.rewinder import Rewinder
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.providers.local.storage.base import Sealed
from pytest_lakebranch.waiting import Deadline, poll

STATE = (
    "select pg_current_wal_insert_lsn()::text, (select count(*) from pg_get_replication_slots()), "
    "(select count(*) from pg_prepared_xact())"
)
LARGEST_LOG = 64 << 20
"""Bytes of log from which a fresh branch is quicker than reading what was touched."""
SESSION_SECONDS = 0.5
"""How long sessions of our own that were closed may take to go away."""
DYING_SECONDS = 5.0
"""How long a server that has ended its connections may take to end itself."""
T = TypeVar("T")
Configuration = tuple[tuple[int, int, int], ...]
CONFIGURATION = ("postgresql.auto.conf", "postgresql.conf", "pg_hba.conf", "pg_ident.conf")


class Owner(Protocol):
    """What a compute needs of the provider that started it."""

    def freeze(self, compute: LocalCompute) -> tuple[ForkPoint, Backup]:
        """Freeze the present of ``compute``."""

    def knows(self, at: ForkPoint) -> bool:
        """Whether branches can still be forked from ``at``."""

    def keep(self, compute: LocalCompute, note: Kept) -> Kept:
        """Stop the server of ``compute`` and move its files to where they outlive the run."""

    def take_back(self, compute: LocalCompute, *, disposable: bool) -> None:
        """Stop the server of ``compute`` and do with its files what is due. Idempotent."""


@dataclass(frozen=True, slots=True)
class State:
    """What moves whenever anything is written, but for the rows of ``unlogged`` relations: the position in the log,
    and what has no log.
    """

    position: int
    slots: int
    prepared: int
    configuration: Configuration
    unlogged: int = 0

    def difference(self, later: State) -> str | None:
        """Why ``later`` may not be the same state of the branch; None when it certainly is."""
        reasons = (
            (later.position != self.position, f"wrote {later.position - self.position:,} bytes of WAL"),
            (later.configuration != self.configuration, "configuration changed"),
            (self.unlogged > 0, "unlogged relations"),
            (later.slots > 0, "replication slots"),
            (later.prepared > 0, "prepared transactions"),
        )
        return next((reason for holds, reason in reasons if holds), None)


class LocalCompute:
    """See Compute."""

    def __init__(self, owner: Owner, server: Server, *, at: Sealed | None, endpoint: Endpoint) -> None:
        self.server = server
        self.at = at
        self._owner = owner
        self._endpoint = endpoint
        self._clients = Clients(server)
        self._home: State | None = None
        self._mark: State | None = None
        self._seen: State | None = None
        self._counted: State | None = None
        self._frozen: tuple[ForkPoint, State] | None = None
        self._untouched: Footprint | None = None
        self._was_lent = False

    @property
    def name(self) -> str:
        """See Compute."""
        return self.server.name

    @property
    def endpoint(self) -> Endpoint:
        """See Compute."""
        return self._endpoint

    @property
    def admin(self) -> Endpoint:
        """See Compute."""
        return self.server.endpoint(self._endpoint.dbname)

    @property
    def data(self) -> Path:
        """The data directory, as this process can open it while the server lives."""
        return self.server.data

    def began(self) -> None:
        """Take the present state for that of the sealed one, which the branch was just made from.

        Where the log stands is asked of the first branch of a sealed state, before anything else is asked of it; it is
        the same in all. Raises BranchError when the server dies.
        """
        if self.at is None:
            return
        with self._death_told():
            if self.at.position is None:
                self.at.position = self._state().position
            if self.at.knowledge is None:
                self.at.knowledge = learn(self.server, self.at)
            self._clients.await_none(SESSION_SECONDS)  # our own sessions are not to be counted as the first lease's
            self._is_home(self.at, self.at.position, self._configuration())

    def _is_home(self, at: Sealed, position: int, configuration: Configuration) -> None:
        """Note that the branch is in its sealed state at this position of the log."""
        unlogged = 0 if at.knowledge is None else len(at.knowledge.unlogged)
        state = State(position, 0, 0, configuration, unlogged)
        self._home = self._mark = self._counted = state
        self._seen = None
        self._frozen = (ForkPoint(at.key, str(at.data)), state)

    def mark(self) -> None:
        """See Compute.

        Where the server has started no process since it was last in the marked state, nobody can have written. Else the
        rows of unlogged relations may have changed, unless no client has ever known the address.
        """
        if self.at is not None and self.at.damage:
            raise BranchError(f"{self.name} stands on files that are not what was sealed: {self.at.damage}")
        self.settle()
        if not self._clients.await_rest() or not self.server.is_alive:
            raise BranchError(f"the server of {self.name} died while nobody had it on lease: {self._last_words()}")
        if self._untouched is None or self._untouched != self._clients.footprint():
            self._mark_present()
        self._was_lent = True

    def _mark_present(self) -> None:
        self._seen = state = self._counted_state()
        home = self._home
        if self._can_be_rewound and home is not None:
            unsure = state != home or (home.unlogged and self._was_lent)
            reason = self.rewind() if unsure else None
        elif self._mark is not None and self._was_lent:
            reason = self._mark.difference(state)
        else:
            reason, self._mark = None, state  # a server that was just started may have written to its log by itself
        if reason is not None:
            raise BranchError(f"{self.name} was written to while nobody had it on lease: {reason}")

    @property
    def _can_be_rewound(self) -> bool:
        return self.at is not None and self.at.knowledge is not None and self.at.knowledge.refusal is None

    def change(self) -> str | None:
        """See Compute."""
        import psycopg

        self._seen = None
        if not self.server.is_alive:
            return f"server died: {self._last_words()}"
        if self._mark is None:
            return "no lease has begun"
        try:
            change = self._work() or self._difference(self._mark)
        except (psycopg.Error, BranchError, OSError) as error:
            died = self.death()
            return f"server died: {died}" if died is not None else f"its server did not answer: {_first_line(error)}"
        if self.server.process.poll() is not None:  # the others may answer although the postmaster was killed
            return f"server died: {self._last_words()}"
        return change

    def _difference(self, mark: State) -> str | None:
        """Why the present may not be the marked state. If no process was started, there is nothing to ask."""
        footprint = self._clients.footprint()
        nobody_came = footprint is not None and footprint == self._untouched
        if nobody_came and mark.configuration == self._configuration():
            return None
        self._seen = self._asked(self._state)
        change = mark.difference(self._seen)
        self._untouched = footprint if change is None else None
        return change

    def _asked(self, question: Callable[[], T]) -> T:
        """What our session answers. A client that ended all sessions has ended ours too: then it is asked in another.

        Raises psycopg.Error.
        """
        import psycopg

        try:
            return question()
        except psycopg.Error:
            if not self._has_reopened():
                raise
            return question()

    def _has_reopened(self) -> bool:
        """Whether our session was over, and its server goes on and has given us another.

        The new one reads the catalog as it is now. That is the sealed one, or is not and then our session is closed
        when it is put back, as any is.
        """
        over = self.server.control
        if not over.closed or not self._clients.await_rest_after(self.server.session_pid) or not self.server.is_alive:
            return False
        with contextlib.suppress(BranchError):
            self.server.open_control()
        over.close()
        return self.server.connection is not over

    def _work(self) -> str | None:
        """What the server is busy with, so that its answers do not count; None when it is at rest."""
        if self._asked(self._clients.remain):
            return "a client is connected"
        if self._clients.strangers:
            return "an extension's background process is running"
        return None if self._clients.await_rest() else "its server does not come to rest"

    def death(self) -> str | None:
        """See Compute. A postmaster ends some time after the connections that it tells to."""
        import psycopg

        try:
            if self._clients.await_rest() and self.server.is_alive:
                self._asked(lambda: self.server.query("select 1"))
        except (psycopg.Error, BranchError):
            poll(self.server.process.poll, deadline=Deadline(DYING_SECONDS))
        return None if self.server.is_alive else self._last_words()

    def rewind(self) -> str | None:
        """See Compute."""
        if self.at is None or self.at.knowledge is None or self._home is None:
            return "only branches of a sealed state can be rewound"
        try:
            if self._configuration() != self._home.configuration:
                return "configuration changed"
            seen = self._seen or self._asked(self._state)
            if seen.position - self._home.position > LARGEST_LOG:
                return "more was written than is worth reading"
            rewinder = Rewinder(self.server, self._clients, self.at, self.at.knowledge)
            position, self._untouched = rewinder.rewind(self._home.position)
            self._is_home(self.at, position, self._home.configuration)
        except Exception as error:  # noqa: BLE001  (whatever it is, also a defect of ours: half of it is done)
            return self._refusal(error)
        return None

    @property
    def is_settled(self) -> bool:
        """See Compute. A control connection that remembers a catalog which is no more was closed."""
        return self.server.connection is not None

    def settle(self) -> None:
        """See Compute."""
        if not self.is_settled:
            self.server.open_control()
            with self._death_told():
                self.server.plan(wal.READ, "0/0")  # the catalog's caches are empty: it takes longer than all the rest
                footprint = self._clients.footprint()
                if self._counted_state() == self._home and not self._home.unlogged:
                    self._untouched = footprint

    def _refusal(self, error: Exception) -> str:
        """Why the branch was not put back. A server may have died of it, or before, and not yet have ended."""
        ours, session = isinstance(error, UnprovenError | BranchError), self.server.connection
        if not ours or not self.server.is_alive or (session is not None and session.closed):
            died = self.death()  # its files go before it does
            if died is not None:
                return f"server died: {died}"
        if ours:
            return str(error)
        what = error.strerror if isinstance(error, OSError) else None
        return f"rewinding failed: {what or f'{type(error).__name__}: {_first_line(error)}'}"

    def _last_words(self) -> str:
        return self.server.last_words() or f"status {self.server.process.poll()}"

    def end_connections(self, *, but: frozenset[int] = frozenset()) -> int:
        """See Compute. Raises BranchError when a client cannot be ended, or returns in a loop."""
        import psycopg

        try:
            return self._asked(lambda: self._clients.end(but)) if self.server.is_alive else 0
        except psycopg.OperationalError:
            return 0  # the server is dying: change() will say so

    def fork_point(self) -> ForkPoint:
        """See Compute. The rows of unlogged tables are not in it, as after a crash."""
        import psycopg

        if not self.server.is_alive:
            raise BranchError(f"{self.name} cannot be forked: its server died: {self._last_words()}")
        try:
            return self._fork_point()
        except psycopg.Error as error:
            died = self.death()  # it may have been dying when it was asked
            said = error if died is None else f"its server died: {died}"
            raise BranchError(f"{self.name} cannot be forked: {said}") from error

    def _fork_point(self) -> ForkPoint:
        before = self._asked(self._state)
        if self._frozen is not None and self._is_frozen_state(before, *self._frozen):
            return self._frozen[0]
        point, backup = self._owner.freeze(self)
        after = self._counted_state()
        # Only if nothing was written since the copy's end, and nothing but the log's position had moved before it,
        # is the present what was frozen.
        still = after.position <= backup.end + PAGE_HEADER and after.configuration == before.configuration
        self._frozen = (point, after) if still else None
        return point

    def _is_frozen_state(self, present: State, point: ForkPoint, then: State) -> bool:
        return then.difference(present) is None and self._owner.knows(point)

    def keep(self, note: Kept) -> Kept:
        """See Compute."""
        return self._owner.keep(self, note)

    def discard(self, *, disposable: bool = False) -> None:
        """See Compute."""
        self._owner.take_back(self, disposable=disposable)

    @contextlib.contextmanager
    def _death_told(self) -> Iterator[None]:
        """For what fails only if the server dies meanwhile: raises BranchError then."""
        import psycopg

        try:
            yield
        except (psycopg.Error, OSError) as error:
            raise BranchError(f"the server of {self.name} died: {self._last_words()}") from error

    def _state(self) -> State:
        position, slots, prepared = self.server.ask(STATE)[0]
        return State(control_file.position(str(position)), int(slots or 0), int(prepared or 0), self._configuration())

    def _configuration(self) -> Configuration:
        found = [os.stat(name, dir_fd=self.server.folder) for name in CONFIGURATION]
        return tuple((file.st_ino, file.st_size, file.st_mtime_ns) for file in found)

    def _counted_state(self) -> State:
        """The present state with its number of unlogged relations; counted again only if the log moved."""
        with self._death_told():
            state = self._state()
            if self._counted is None or self._counted.position != state.position:
                names = (path.name for path in self.data.glob("base/*/*_init"))
                self._counted = self._with_unlogged(state, sum(1 for _ in names))
        return self._with_unlogged(state, self._counted.unlogged)

    @staticmethod
    def _with_unlogged(state: State, unlogged: int) -> State:
        return State(state.position, state.slots, state.prepared, state.configuration, unlogged)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
