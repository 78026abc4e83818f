"""What the engine knows of a provider: two small protocols and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import Endpoint, ForkPoint, ProviderFacts


class Compute(Protocol):
    """A branch whose server runs. All methods may be called from any thread, one at a time for each compute."""

    @property
    def name(self) -> str:
        """The branch's name."""

    @property
    def endpoint(self) -> Endpoint:
        """Where tests connect, as the role they connect as."""

    @property
    def admin(self) -> Endpoint:
        """The same place and database, as a superuser."""

    def mark(self) -> None:
        """Begin a lease: remember the present state as the one it begins in.

        Raises BranchError when that is not the state of the branch's fork point any more.
        """

    def end_connections(self, *, but: frozenset[int] = frozenset()) -> int:
        """End every client connection but our own and those served by the processes ``but``; wait until they are gone.

        Returns how many had to be ended.
        A connection that its client has closed already, and whose server process is about to exit, does not count.
        """

    def change(self) -> str | None:
        """Why the branch is not in the marked state any more; None when that is certain to be the case.

        Needs that no client is connected. A server that died is a reason, not an exception.
        """

    def death(self) -> str | None:
        """What the server said last, if it has died or is dying; None while it lives."""

    def rewind(self) -> str | None:
        """Undo everything since the branch was made, in place; ends all client connections.

        None: it is in the state of its fork point again, byte for byte, and that is the marked state. Else the reason
        why this cannot be done or cannot be proven; then it must not be used any more.
        """

    @property
    def is_settled(self) -> bool:
        """Whether a lease can begin at once; else :meth:`settle` is to be called first."""

    def settle(self) -> None:
        """Do what a rewind has left to be done when nobody waits for it. Raises BranchError when it is of no use."""

    def fork_point(self) -> ForkPoint:
        """The present state, frozen, consistent also while clients write; the same one until something is written.

        Raises BranchError when the server is gone or the state cannot be copied.
        """

    def keep(self, note: Kept) -> Kept:
        """Stop the server and leave the branch for a human, as it is now; returns ``note`` with what is known by then.

        Raises BranchError or MachineError when that is not possible; then the branch is discarded.
        """

    def discard(self, *, disposable: bool = False) -> None:
        """Stop the server and give the storage back. Idempotent.

        The storage of a ``disposable`` branch is never used again: its test may have done anything to it.
        """


class Incoming(Protocol):
    """The files of another server on their way into a base that is being built."""

    @property
    def directory(self) -> Path:
        """An empty, private directory for an online backup (pg_basebackup)."""

    def take_over(self, database: str) -> Compute:
        """A running branch like those of :meth:`Provider.build`, on what was put there, in the place of the one that
        this was made for, which is no more.

        Of the backup only ``database`` stays, under the name that tests know, and the roles that it needs, without
        passwords and rights of their own; nothing in it can reach another server by itself.
        Raises LakebranchError; then nothing is left of either.
        """


class Provider(Protocol):
    """Where branches live. All methods may be called from any thread."""

    @property
    def facts(self) -> ProviderFacts:
        """What reports say about this provider."""

    @property
    def root_key(self) -> str:
        """The key of the state before any step: everything but the steps that decides what a base contains."""

    @property
    def layered(self) -> bool:
        """Whether the outcome of single steps can be sealed at little cost, and not only the finished base."""

    @property
    def start_seconds(self) -> float | None:
        """About how long a start takes, where spares cost so much that they are kept only as tests use branches up;
        None where they are cheap.
        """

    @property
    def at_a_time(self) -> int | None:
        """How many starts to have under way at most, where they are waiting and not work; None where they are work."""

    @property
    def room(self) -> int | None:
        """How many more branches could be had at once; None where as many as are wanted."""

    def when_short(self, short: Callable[[], None]) -> None:
        """Have ``short`` called while a start waits for room: whoever keeps spares gives one back.

        It may raise BranchError, which ends the wait.
        """

    def at(self, when: str) -> ForkPoint:
        """The source as it was at a time (ISO 8601) or a position in its log; raises BranchError where that is unknown
        from the start.
        """

    def cached(self, key: str) -> ForkPoint | None:
        """The sealed state with this key, held against clean-up until :meth:`close`; None when there is none.

        A damaged one is removed and counts as none.
        """

    def building(self, key: str) -> AbstractContextManager[None]:
        """Exclude every other process of the machine from building ``key``; waits as long as it takes."""

    def build(self, name: str, at: ForkPoint | None, *, key: str = "") -> Compute:
        """A running branch for steps to work on, forked from ``at``, or empty; its role is a superuser meanwhile.

        ``key`` is what the base will be sealed as, for whoever looks at the branch meanwhile.
        """

    def incoming(self, compute: Compute) -> Incoming | None:
        """Make room for files that are to take the place of those of ``compute``, which :meth:`build` gave and nothing
        has worked on yet; None where no files are taken.
        """

    def check_quiet(self, compute: Compute) -> None:
        """Raise BaseError if a step left connections, prepared transactions or anything else that cannot be sealed."""

    def seal(self, compute: Compute, key: str) -> ForkPoint:
        """Turn what :meth:`build` gave into the immutable state ``key``, replacing an older one; ends ``compute``.

        Half-made is not made: after any failure nothing is cached. Raises BaseError.
        """

    def start(self, name: str, at: ForkPoint) -> Compute:
        """A running branch forked from ``at``, in O(its storage rung), ready for connections.

        Raises BranchError or MachineError; then nothing is left of it.
        """

    def forget(self, at: ForkPoint) -> None:
        """Give back the storage of a frozen present that nobody will fork from again; a layer stays."""

    def close(self) -> None:
        """Stop and delete everything this object created, but sealed states. Idempotent."""
