"""Bases: found in the cache, or built once however many workers and runs ask at the same time."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from pytest_lakebranch.errors import BaseError, LakebranchError, brief
from pytest_lakebranch.model import Built, Endpoint, ForkPoint
from pytest_lakebranch.providers.base import Compute, Incoming, Provider
from pytest_lakebranch.steps.base import Step, units_of

CHECKPOINT_AFTER = 1.0
"""Seconds of work from which its outcome is worth a layer of its own, so that what follows can change cheaply."""
SPARSE = 0.25
"""Between the migrations of one step, a layer is stored only when its work is also this part of all the step's work."""

_VOID = "the ticket for base {key} is void: its holder was taken for dead."


@dataclass(frozen=True, slots=True)
class Plan:
    """The units of a base's steps, by what they do (fingerprints) and what the user calls their step (labels)."""

    fingerprints: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Plan:
        """The plan that these steps make. Raises ConfigError."""
        pairs = [(unit.fingerprint(), step.label) for step in steps for unit in units_of(step)]
        return cls(tuple(fingerprint for fingerprint, _ in pairs), tuple(label for _, label in pairs))

    def within_step(self, done: int) -> bool:
        """Whether the first ``done`` units end in the midst of a step, its last unit not being the next."""
        same = self.labels[done - 1 : done + 2]
        return len(same) == 3 and len(set(same)) == 1

    def keys(self, root_key: str) -> list[str]:
        """The layer keys from the empty state to the finished base: each hashes its parent's key and its step."""
        keys = [root_key]
        for fingerprint in self.fingerprints:
            keys.append(hashlib.sha256(f"{keys[-1]}\n{fingerprint}".encode()).hexdigest())
        return keys


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right and duty to apply the units of a base from number ``next`` on, against ``endpoint``."""

    id: str
    next: int
    endpoint: Endpoint


@dataclass(slots=True)
class _Build:
    """A base on its way; ``worker`` holds its ticket."""

    worker: str
    plan: Plan
    keys: list[str]
    began: float = field(default_factory=time.monotonic)
    first: int = 0
    unsaved: float = 0.0
    spent: float = 0.0
    compute: Compute | None = None
    incoming: Incoming | None = None
    locks: ExitStack = field(default_factory=ExitStack)
    over: bool = False

    def worked(self, done: int, seconds: float, *, keep: bool) -> bool:
        """Note work that led to ``done`` units; whether that is worth a layer of its own."""
        self.unsaved += seconds
        self.spent += seconds
        within = self.plan.within_step(done)
        worth = keep or self.unsaved >= max(CHECKPOINT_AFTER, SPARSE * self.spent if within else 0)
        if worth:
            self.unsaved = 0.0
        if done < len(self.keys) - 1 and self.plan.labels[done] != self.plan.labels[done - 1]:
            self.spent = 0.0
        return worth and done < len(self.plan.fingerprints)


class Bases:
    """All bases of a run, by the key of their last layer."""

    def __init__(self, provider: Provider, *, name: Callable[[], str], rebuild: bool) -> None:
        self._provider = provider
        self._name = name
        self._rebuild = rebuild
        self._changed = threading.Condition()
        self._ready: dict[str, ForkPoint] = {}
        self._building: dict[str, _Build] = {}
        self._failed: dict[str, str] = {}
        self.history: list[Built] = []

    def key(self, plan: Plan) -> str:
        """The name under which leases ask for this base."""
        return plan.keys(self._provider.root_key)[-1]

    def fork_point(self, key: str) -> ForkPoint:
        """Where branches of a ready base start."""
        return self._ready[key]

    def request(self, worker: str, plan: Plan) -> Ticket | None:
        """None when the base is ready; a ticket when the caller is to build it; waits while somebody else does.

        Raises BaseError when it failed before in this run, MachineError when the machine cannot hold it.
        """
        keys = plan.keys(self._provider.root_key)
        with self._changed:
            self._changed.wait_for(lambda: keys[-1] not in self._building)
            if keys[-1] in self._ready:
                return None
            if keys[-1] in self._failed:
                raise BaseError(self._failed[keys[-1]])
            build = self._building[keys[-1]] = _Build(worker, plan, keys)
        try:
            ticket = self._open(build)
        except BaseException as error:
            self._abandon(build, error if isinstance(error, LakebranchError) else None)
            raise
        if ticket is not None and build.over:  # its worker died while the server started
            self._abandon(build, None)
            raise BaseError(_VOID.format(key=ticket.id[:12]))
        return ticket

    def _open(self, build: _Build) -> Ticket | None:
        key = build.keys[-1]
        build.locks.enter_context(self._provider.building(key))
        ready = None if self._rebuild else self._provider.cached(key)
        if ready is None:
            build.first, start = self._longest_prefix(build.keys)
            if build.first < len(build.plan.fingerprints):
                build.compute = self._provider.build(self._name(), start, key=key)
                return Ticket(key, build.first, build.compute.endpoint)
            ready = start
        self._settle(build, ready, steps=())
        return None

    def _longest_prefix(self, keys: list[str]) -> tuple[int, ForkPoint]:
        """How many units are cached, and where they led; the empty state is made here when even that is missing."""
        for count in range(len(keys) - 2, 0, -1):
            if not self._rebuild and (found := self._provider.cached(keys[count])):
                return count, found
        return 0, self._empty(keys[0], held=len(keys) == 1)

    def _empty(self, key: str, *, held: bool) -> ForkPoint:
        with ExitStack() as locks:
            if not held:  # for a base without steps the caller has this lock already
                locks.enter_context(self._provider.building(key))
            found = self._provider.cached(key)
            return found or self._provider.seal(self._provider.build(self._name(), None), key)

    def stepped(self, ticket: str, done: int, seconds: float, *, keep: bool = False) -> Endpoint:
        """Note that the first ``done`` units are applied, the last of them in ``seconds``; return where the next works.

        ``keep``: what they led to gets a layer, however little time it took.
        Raises BaseError when they left something that cannot be sealed.
        """
        build, compute = self._held(ticket)
        self._provider.check_quiet(compute)
        if build.worked(done, seconds, keep=keep) and self._provider.layered:
            with self._provider.building(build.keys[done]):
                layer = self._provider.seal(compute, build.keys[done])
            compute = self._go_on(build, self._provider.build(self._name(), layer))
        return compute.endpoint

    def _go_on(self, build: _Build, compute: Compute) -> Compute:
        """The build works on ``compute`` from now on. Raises BaseError when its worker died meanwhile."""
        with self._changed:
            over = build.over
            if not over:
                build.compute = compute
        if over:
            compute.discard(disposable=True)
            raise BaseError(_VOID.format(key=build.keys[-1][:12]))
        return compute

    def incoming(self, ticket: str) -> Path | None:
        """Where to put the files of another server that are to be the base of ``ticket``; None where none are taken."""
        build, compute = self._held(ticket)
        build.incoming = self._provider.incoming(compute)
        return None if build.incoming is None else build.incoming.directory

    def replaced(self, ticket: str, database: str) -> None:
        """Go on with what was put there, of which ``database`` is the base. Raises LakebranchError."""
        build, _ = self._held(ticket)
        if build.incoming is None:
            raise BaseError("there are no files to take over.")
        build.compute = None  # it is no more, also where this fails
        self._go_on(build, build.incoming.take_over(database))

    def finish(self, ticket: str) -> None:
        """Seal the base of ``ticket`` and let everybody who waits have it. Raises BaseError."""
        build, compute = self._held(ticket)
        try:
            ready = self._provider.seal(compute, ticket)
        except LakebranchError as error:
            self._abandon(build, error)
            raise
        self._settle(build, ready, steps=_steps(build.plan.labels, build.first))

    def died(self, ticket: str) -> str | None:
        """What the server of the base of ``ticket`` said last, if it has died; None while it lives."""
        build = self._building.get(ticket)
        return None if build is None or build.compute is None else build.compute.death()

    def fail(self, ticket: str, message: str) -> None:
        """Give up the base of ``ticket``: nothing is cached, and nobody tries again in this run."""
        if ticket in self._building:  # else it is void, or failed when it was to be sealed
            self._abandon(self._building[ticket], BaseError(message))

    def _held(self, ticket: str) -> tuple[_Build, Compute]:
        build = self._building.get(ticket)
        if build is None or build.compute is None or build.over:
            raise BaseError(_VOID.format(key=ticket[:12]))
        return build, build.compute

    def give_back(self, ticket: str) -> None:
        """Take a ticket back from a worker that was interrupted; whoever asks next gets it."""
        self._abandon(self._held(ticket)[0], None)

    def void(self, worker: str) -> None:
        """Take back the tickets of a worker that died; whoever asks next gets them."""
        with self._changed:
            held = [build for build in self._building.values() if build.worker == worker]
        for build in held:
            self._abandon(build, None)

    def close(self) -> None:
        """Give up whatever is being built."""
        with self._changed:
            builds = list(self._building.values())
        for build in builds:
            self._abandon(build, BaseError("the run is ending."))

    def _settle(self, build: _Build, ready: ForkPoint, *, steps: tuple[str, ...]) -> None:
        """Let everybody who waits have what was built. Raises BaseError when it was given up meanwhile."""
        build.locks.close()
        with self._changed:
            if build.over:  # its worker died meanwhile, and another may be at it
                raise BaseError(_VOID.format(key=build.keys[-1][:12]))
            build.over = True
            self._ready[build.keys[-1]] = ready
            del self._building[build.keys[-1]]
            seconds = time.monotonic() - build.began
            self.history.append(Built(build.keys[-1], build.worker, time.time() - seconds, steps, seconds))
            self._changed.notify_all()

    def _abandon(self, build: _Build, error: LakebranchError | None) -> None:
        """Give a build up, once: a worker's death may be noticed twice, and another may hold the ticket by then."""
        with self._changed:
            first, build.over = not build.over, True
        try:
            if build.compute is not None:
                build.compute.discard(disposable=True)
        finally:
            build.locks.close()
            if first:
                self._forget(build.keys[-1], None if error is None else _told_before(build.worker, error))

    def _forget(self, key: str, failure: str | None) -> None:
        with self._changed:
            del self._building[key]
            if failure is not None:
                self._failed[key] = failure
            self._changed.notify_all()


def _steps(labels: tuple[str, ...], first: int) -> tuple[str, ...]:
    """What was done from unit ``first`` on: the labels of steps, with a count where only a part of one was left."""
    done: list[str] = []
    for label, group in groupby(enumerate(labels), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in group]
        new = sum(number >= first for number in numbers)
        if new:
            done.append(label if new == len(numbers) else f"{label} ({new} of {len(numbers)})")
    return tuple(done)


def _told_before(worker: str, error: LakebranchError) -> str:
    return f"there is no base: {brief(error)} (the whole message is with the first test that asked, on {worker})"
