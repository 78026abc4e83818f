"""All that the emulator holds, and how its parts find it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_lakebranch.emulator.addresses import Addresses
from pytest_lakebranch.emulator.clock import WorldTime
from pytest_lakebranch.emulator.gateway import Gateway
from pytest_lakebranch.emulator.identities import Identity, Tokens
from pytest_lakebranch.emulator.latency import Latencies
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.emulator.operations import Operations, Work
from pytest_lakebranch.emulator.refusals import conflicting, not_found, reconciling
from pytest_lakebranch.emulator.resources import Branch, Endpoint, Project
from pytest_lakebranch.emulator.store import ForkPoints, Store
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.local.provider import LocalProvider

View = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was let in: ``route`` is its name, that of the SDK's method. ``failure`` is the error code and
    message with which the operation that it begins is to end.
    """

    route: str
    identity: Identity
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    failure: tuple[str, str] | None = None

    def flag(self, name: str) -> bool:
        """A boolean of the query."""
        return self.query.get(name, "").lower() == "true"


def nothing() -> None:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation does: ``run`` takes its time; ``commit`` and ``undo`` are called with the lock held.

    ``commit`` returns the resource, or None when it is gone.
    """

    commit: Callable[[], View | None]
    undo: Callable[[], None] = nothing
    run: Callable[[], None] = nothing


@dataclass
class World:
    """Everything. ``lock`` is held while resources are looked at or changed, and never while servers are waited for."""

    provider: LocalProvider
    base: ForkPoint
    time: WorldTime
    tokens: Tokens
    limits: Limits
    latencies: Latencies
    operations: Operations
    points: ForkPoints
    gateway: Gateway
    addresses: Addresses
    projects: dict[str, Project] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def project(self, project: str, *, deleted: bool = False) -> Project:
        """A project; with ``deleted`` also one that is deleted softly. Raises ApiError."""
        found = self.projects.get(project)
        if found is None or (found.deleted is not None and not deleted):
            raise not_found("project")
        return found

    def branch(self, project: str, branch: str, *, deleted: bool = False) -> Branch:
        """A branch; raises ApiError, for the project first."""
        found = self.project(project).branches.get(branch)
        if found is None or (found.deleted is not None and not deleted):
            raise not_found("branch")
        return found

    def endpoint(self, project: str, branch: str, endpoint: str) -> Endpoint:
        """An endpoint; raises ApiError, for its parents first."""
        found = self.branch(project, branch).endpoints.get(endpoint)
        if found is None:
            raise not_found("endpoint")
        return found

    def settled(self, branch: Branch) -> Branch:
        """``branch`` when nothing is under way in it; raises ApiError."""
        if branch.pending is not None:
            raise reconciling(branch.name)
        if branch.busy:
            raise conflicting()
        return branch

    def new_store(self, name: str, at: ForkPoint, *, like: Store | None = None) -> Store:
        """The data of a new branch."""
        now = self.time.now()
        lsn, size = ("0/0", 0) if like is None else (like.lsn, like.bytes)
        return Store(self.provider, self.points, name, at, now, lsn, size)

    def begin(self, call: Call, resource: str, kind: str, change: Change) -> View:
        """Begin the operation of a call."""

        def commit() -> View | None:
            with self.lock:
                return change.commit()

        def undo() -> None:
            with self.lock:
                change.undo()

        seconds = self.latencies.draw(call.route)
        return self.operations.start(resource, kind, Work(commit, undo, change.run, seconds, call.failure))

    def change(self, call: Call, branch: Branch, resource: str, kind: str, change: Change) -> View:
        """As :meth:`begin`, for what changes something in a branch: one at a time. Raises ApiError."""

        def commit() -> View | None:
            view = change.commit()
            branch.busy = False
            return view

        def undo() -> None:
            branch.busy = False
            change.undo()

        self.settled(branch).busy = True
        return self.begin(call, resource, kind, Change(commit, undo, change.run))
