"""A branch in a test's hands."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import Endpoint, Grant
from pytest_lakebranch.postgres import connect

if TYPE_CHECKING:
    import psycopg

    from pytest_lakebranch.schema.diff import SchemaDiff
    from pytest_lakebranch.schema.model import Schema


class Desk(Protocol):
    """Where branches are leased: what a branch needs in order to fork and reset itself."""

    provider: str

    def fork(self, parent: Branch) -> Branch:
        """A branch of the parent's present state."""

    def reset(self, branch: Branch) -> None:
        """Put the branch back into the state it was leased in."""

    def release(self, branch: Branch) -> object:
        """End the branch's lease."""

    def once(self, branch: Branch, work: Callable[[Branch], object]) -> None:
        """Have work done for the branch by one worker of the run."""

    def schema_of(self, base: str) -> Schema:
        """The schema of the base with this key."""


class Branch:
    """An isolated copy-on-write copy of a database cluster, with a server of its own, on lease.

    The lease ends with the fixture that gave the branch out; then every method raises BranchError and open
    connections are ended.
    """

    def __init__(self, desk: Desk, grant: Grant, *, origin: Branch | str) -> None:
        self._desk = desk
        self._grant = grant
        self._origin = origin
        self.ended = False
        self.barred = ""
        """Why nobody is to connect at present, though the branch is there."""
        self.opened: set[int] = set()
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def lease(self) -> str:
        """The name of the lease, as the host knows it."""
        return self._grant.lease

    @property
    def name(self) -> str:
        """The branch's name, unique within the run."""
        return self._grant.branch

    @property
    def parent(self) -> str:
        """The name of the branch it was forked from, or ``base``."""
        return self._grant.parent

    @property
    def provider(self) -> str:
        """Where the branch lives: ``local``."""
        return self._desk.provider

    @property
    def url(self) -> str:
        """A ``postgresql://`` URL of the tests' database. It stays the same when the branch is reset."""
        return connect.url(self._open_endpoint)

    @property
    def conninfo(self) -> str:
        """A libpq connection string that pins host, hostaddr, port, user, dbname and options.

        No ``PGHOSTADDR``, ``PGOPTIONS`` or service file can lead a connection made with it elsewhere.
        """
        return connect.conninfo(self._open_endpoint)

    @property
    def endpoint(self) -> Endpoint:
        """Where to connect, and as whom."""
        self._check()
        return self._grant.endpoint

    @property
    def _open_endpoint(self) -> Endpoint:
        self._check_bar()
        return self.endpoint

    def _check_bar(self) -> None:
        if self.barred:
            raise BranchError(f"branch {self.name}: {self.barred}.")

    def _check(self) -> None:
        if self.ended:
            raise BranchError(
                f"branch {self.name} was released when its fixture ended. Ask for a branch of its own "
                "(lakebranch, lakebranch_factory, lakebranch_fixture) where it is needed longer."
            )

    def connect(self, **kwargs: Any) -> psycopg.Connection[Any]:
        """A psycopg connection to the tests' database; keyword arguments are those of ``psycopg.connect``."""
        connection = connect.connect(self._open_endpoint, **kwargs)
        self._note(connection)
        return connection

    async def aconnect(self, **kwargs: Any) -> psycopg.AsyncConnection[Any]:
        """An asynchronous psycopg connection; keyword arguments are those of ``psycopg.AsyncConnection.connect``."""
        connection = await connect.aconnect(self._open_endpoint, **kwargs)
        self._note(connection)
        return connection

    def _note(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        self.opened.add(connection.info.backend_pid)
        self._connections.add(connection)

    @property
    def descriptors(self) -> set[int]:
        """The file descriptors of the open connections that :meth:`connect` and :meth:`aconnect` gave out."""
        return {connection.fileno() for connection in self._connections if not connection.closed}

    @contextmanager
    def fork(self) -> Iterator[Branch]:
        """A branch of this branch's present state, until the block ends.

        What other connections have committed before the call is in it, whole transactions only. Unlogged tables are
        empty in it, as after a crash. The application's URL does not move.
        """
        __tracebackhide__ = True
        self._check()
        child = self._desk.fork(self)
        try:
            yield child
        finally:
            self._desk.release(child)

    def reset(self) -> None:
        """Go back to the state in which the branch was leased; ends all open connections to it."""
        __tracebackhide__ = True
        self._check()
        self._check_bar()
        self._desk.reset(self)

    def schema(self) -> Schema:
        """The schema of the tests' database, as far as it is committed; any role can read it."""
        from pytest_lakebranch.schema.catalog import read

        with self.connect(autocommit=True) as connection:
            return read(connection)

    def diff(self, other: Branch | None = None) -> SchemaDiff:
        """How the schema differs from that of ``other``; without it, from what the branch was forked from.

        That is the base, or the other branch as it is now. What is not committed is not seen.
        """
        from pytest_lakebranch.schema.diff import compare

        __tracebackhide__ = True
        self._check()
        if other is not None:
            return compare(other.schema(), self.schema(), old=other.name, new=self.name)
        origin = self._origin
        before = self._desk.schema_of(origin) if isinstance(origin, str) else origin.schema()
        return compare(before, self.schema(), old=self.parent, new=self.name)

    def once(self, work: Callable[[Branch], object]) -> None:
        """Call ``work(branch)`` in one worker of the run only; in the others, wait until it is done.

        This is how ``lakebranch_run`` is filled: a fixture that fills it runs in every worker. If ``work`` raises,
        the error is raised here, and the next worker that comes tries again.
        """
        self._desk.once(self, work)

    def __repr__(self) -> str:
        state = "released" if self.ended else f"at {self._grant.endpoint.host}"
        return f"<Branch {self.name} of {self.parent}, {self.provider}, {state}>"
