"""This process's part in a run: its line to the host and the branches it has on lease."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lakebranch import answers
from pytest_lakebranch.application import Application
from pytest_lakebranch.branch import Branch
from pytest_lakebranch.branches.lease import Purpose, Request
from pytest_lakebranch.building import Builder
from pytest_lakebranch.config import Settings
from pytest_lakebranch.environment import Seat, clear_abandoned_seats
from pytest_lakebranch.errors import BranchError, ConfigError, HostError, LakebranchError, MachineError, brief
from pytest_lakebranch.host.ahead import Ahead
from pytest_lakebranch.host.client import HostClient, connect, connect_or_start
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.model import Endpoint, Grant, Lease, LeaseEnd, Summary
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.stash import RUN, RUN_ID, SEAT, SETTINGS, TERMINAL
from pytest_lakebranch.state import PORT, State
from pytest_lakebranch.steps.base import Step
from pytest_lakebranch.steps.kinds import parse_all, refuse_left_out

if TYPE_CHECKING:
    from pytest_lakebranch.schema.model import Schema


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands in the run. ``worker`` is xdist's id, or ``main``."""

    run: str
    worker: str
    workers: int
    controller: Identity
    terminal: str | None


class Run:
    """Opens and ends leases for this process."""

    def __init__(self, config: pytest.Config, settings: Settings, place: Place, seat: Seat | None) -> None:
        self.settings = settings
        self.provider = settings.provider
        self._config = config
        self._place = place
        self._seat = seat
        self._directory = RunDirectory.of(State.at(settings.home), place.run)
        self._client: HostClient | None = None
        self._bases: dict[tuple[Any, ...], str] = {}
        self._steps: dict[tuple[Any, ...], tuple[Step, ...]] = {}
        self._building = threading.RLock()
        self._at_work: set[tuple[str, int]] = set()
        self._shared: dict[Purpose, Branch] = {}
        self._schemas: dict[str, Schema] = {}
        self._trouble: LakebranchError | None = None
        self.asked = False
        """Whether the host was asked for anything, also in vain."""
        self._said: set[str] = set()
        self.application = Application(seat, self._shared, self._disconnect)

    # -- the host

    @property
    def _host(self) -> HostClient:
        """The line to the host, which is started by the first call in the run if it was not before."""
        self.asked = True
        if self._trouble is not None:
            raise self._trouble
        if self._client is None:
            try:
                State.at(self.settings.home).ensure()
                self._client = connect_or_start(
                    self._directory,
                    worker=self._place.worker,
                    settings=self.settings,
                    controller=self._place.controller,
                    workers=self._place.workers,
                )
            except LakebranchError as error:
                self._trouble = error
                raise
        return self._client

    def base(self, entries: Sequence[str | Callable[..., object]] | None = None) -> str:
        """The key of a base, made by ``entries`` (default: the project's), which is ready when this returns."""
        chosen = tuple(self.entries if entries is None else entries)
        with self._building:  # another thread would wait on the host's line, which who builds it needs
            if chosen not in self._bases:
                self._bases[chosen] = self._build(self.steps(chosen))
        return self._bases[chosen]

    def _build(self, steps: Sequence[Step]) -> str:
        progress, root = Progress(self._place.terminal), Path(self.settings.root)
        try:
            return Builder(self._host, progress, root, self._seat, self.settings.lock_seconds).ensure(steps)
        finally:
            self.application.lead_again()  # a step's code may have used the application

    def steps(self, entries: Sequence[str | Callable[..., object]]) -> tuple[Step, ...]:
        """The steps that ``entries`` name. Raises ConfigError."""
        chosen = tuple(entries)
        if chosen not in self._steps:
            self._steps[chosen] = parse_all(chosen, self.settings, None if self._seat is None else self._seat.endpoint)
        return self._steps[chosen]

    @contextmanager
    def application_at(self, endpoint: Endpoint) -> Iterator[None]:
        """The application's URL leads to ``endpoint`` while the block runs, a step's for instance."""
        if self._seat is not None:
            self._seat.lead_to(endpoint)
        try:
            yield
        finally:
            self.application.lead_again()

    @cached_property
    def entries(self) -> list[str | Callable[..., object]]:
        """The steps of ini and hooks, in this order. ConfigError as of :meth:`whole`."""
        return self.whole([*self.settings.base, *answers.steps(self._config)])

    def whole(self, entries: Sequence[str | Callable[..., object]]) -> list[str | Callable[..., object]]:
        """All steps of a base. Raises ConfigError, also when files of SQL only look as if they were run."""
        if tuple(entries) not in self._bases:
            refuse_left_out(self.steps(entries))
        return list(entries)

    # -- leases

    def open(  # noqa: PLR0913  (all but the first are named)
        self,
        purpose: Purpose,
        *,
        asker: str,
        parent: Branch | None = None,
        disposable: bool = False,
        base: Sequence[str | Callable[..., object]] | None = None,
        at: str | None = None,
    ) -> Branch:
        """A branch on lease; the caller releases it.

        An error that was raised before in this process is raised again in one line.
        """
        with self._saying_once():
            key = self.base(base)
            request = Request(
                self._place.worker,
                asker,
                purpose,
                key,
                parent=None if parent is None else parent.lease,
                disposable=disposable,
                present=purpose == "test",
                at=at,
            )
            return Branch(self, self._host.lease(request), origin=parent or key)

    @contextmanager
    def _saying_once(self) -> Iterator[None]:
        try:
            yield
        except LakebranchError as error:
            # What a machine lacks, it lacks for every branch, though the message may name another one each time.
            what = "machine" if isinstance(error, MachineError) else str(error)
            if what in self._said:
                raise type(error)(_again(error)) from None
            self._said.add(what)
            raise

    def release(self, branch: Branch, *, failed: str = "") -> LeaseEnd:
        """End a lease; ``failed`` tells how its test failed, and is empty when it did not."""
        branch.ended = True
        return self._host.release(branch.lease, failed=failed)

    def death(self, branch: Branch, *, seen: str = "") -> str | None:
        """What the server of a branch said last, if it has died; None while it lives.

        ``seen`` tells when, to those who share the branch and ask later.
        """
        return self._host.death(branch.lease, seen=seen)

    def fork(self, parent: Branch) -> Branch:
        """A branch of the parent's present state."""
        return self.open("fork", asker=_running_test() or "fork", parent=parent)

    def schema_of(self, base: str) -> Schema:
        """The schema of the base with this key, which is ready; read once in this process."""
        if base not in self._schemas:
            branch = Branch(self, self._host.lease(Request(self._place.worker, "schema", "fork", base)), origin=base)
            try:
                self._schemas[base] = branch.schema()
            finally:
                self.release(branch)
        return self._schemas[base]

    def reset(self, branch: Branch) -> None:
        """Put a branch back into the state it was leased in."""
        self._host.reset(branch.lease)
        self.application.discard()

    def _disconnect(self, branch: Branch) -> None:
        with suppress(HostError):  # it is gone, and with it all servers: nobody is connected
            self._host.disconnect(branch.lease, but=branch.opened)

    def shared(self, purpose: Purpose) -> Branch:
        """The branch of this worker or of the run, leased when it is first asked for and kept to the end."""
        if purpose not in self._shared:
            branch = self._shared[purpose] = self.open(purpose, asker=f"{purpose} branch")
            self._config.hook.pytest_lakebranch_branch_ready(branch=branch, item=None)
            self.application.lead_again()
        return self._shared[purpose]

    def once(self, branch: Branch, work: Callable[[Branch], object]) -> None:
        """Have ``work`` done for a branch by one worker of the run; returns when it is done."""
        key = f"{branch.lease} {_name_of(work)}"
        mine = (key, threading.get_ident())
        if mine in self._at_work:
            raise BranchError(f"once() was called for {work.__qualname__} while that runs: it would wait for itself.")
        if self._host.begin(key):
            done = False
            self._at_work.add(mine)
            try:
                work(branch)
                done = True
            finally:
                self._at_work.discard(mine)
                self._host.end(key, done=done)

    # -- the end

    def leave(self) -> None:
        """This process is done: what it had on lease ends."""
        worker = self._shared.pop("worker", None)
        self._shared.clear()
        try:
            self.application.lead_around()
            if worker is not None and self._client is not None and not self._client.broken:
                end = self.release(worker)
                self._config.hook.pytest_lakebranch_branch_released(branch=worker, end=end, item=None)
        finally:
            self.application.leave()
            self._hang_up()

    def _hang_up(self) -> None:
        if self._client is not None:
            with suppress(OSError):  # the host is gone: what was on its way to it cannot be sent any more
                self._client.close()
            self._client = None

    def finish(self) -> Summary | None:
        """End the run, in the controller: stop the host and wait until nothing is left. None when there was no host."""
        try:
            self.leave()
        finally:
            clear_abandoned_seats()
            summary = finish(self._directory, worker=self._place.worker)
        for lease in summary.leases if summary else ():
            if lease.purpose == "run" and lease.end is not None:
                self._tell_released(lease, lease.end)
        return summary

    def _tell_released(self, lease: Lease, end: LeaseEnd) -> None:
        """The branch of the run ends with the run, when no worker is left that could be told."""
        nowhere = Endpoint("", PORT, self.settings.user, self.settings.database)
        grant = Grant(lease.lease, lease.branch, lease.parent, nowhere, lease.waited)
        branch = Branch(self, grant, origin=lease.base)
        branch.ended = True
        self._config.hook.pytest_lakebranch_branch_released(branch=branch, end=end, item=None)


def finish(directory: RunDirectory, *, worker: str) -> Summary | None:
    """End the run of this directory, if a host serves it. Raises HostError when one did and was killed."""
    try:
        client = connect(directory, worker=worker)
    except OSError:
        if directory.failure() is None and directory.is_claimed:
            raise HostError(
                "the host of this run was killed before the run ended, so there is no summary. Its servers ended "
                f"with it; the next run removes what it left in {directory.path}."
            ) from None
        directory.remove()  # nobody could be served, as was said to who asked
        return None
    return client.finish()


def _running_test() -> str:
    """The node id of the test that runs, which may have spaces in it; pytest adds the phase in brackets."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


def _name_of(work: Callable[..., object]) -> str:
    """What is the same for this function in all workers, and different for another one."""
    code = getattr(work, "__code__", None)
    if code is None:
        raise ConfigError(f"once() takes a function written with def or lambda, not {work!r}: it must know its place.")
    places = repr([code.co_names, *code.co_positions()])  # tells two lambdas on one line apart
    what = hashlib.sha256(code.co_code + places.encode()).hexdigest()[:12]
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname} {what}"


def _again(error: LakebranchError) -> str:
    return f"there is no branch, as said before: {brief(error)}"


@contextmanager
def told() -> Iterator[None]:
    """Turn our errors into a failure that shows the message alone: our own stack tells a user nothing."""
    try:
        yield
    except LakebranchError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def run_of(config: pytest.Config) -> Run:
    """This process's part in the run; made when it is first asked for."""
    if RUN not in config.stash:
        config.stash[RUN] = Run(config, config.stash[SETTINGS], _place(config), config.stash.get(SEAT, None))
    return config.stash[RUN]


def start_ahead(config: pytest.Config, *, workers: int) -> Ahead:
    """Start the host of the run, in the controller, before anybody asks for a branch. Raises LakebranchError."""
    settings, place = config.stash[SETTINGS], _place(config)
    directory = RunDirectory.of(State.at(settings.home).ensure(), place.run)
    return Ahead(directory, settings, controller=place.controller, workers=workers)


def _place(config: pytest.Config) -> Place:
    worker = getattr(config, "workerinput", None)
    if worker is None:
        run = config.stash.setdefault(RUN_ID, uuid.uuid4().hex)
        return Place(run, "main", 1, Identity.of(os.getpid()), config.stash[TERMINAL])
    return Place(
        worker["lakebranch_run"],
        worker["workerid"],
        worker["workercount"],
        Identity(**worker["lakebranch_controller"]),
        worker["lakebranch_terminal"],
    )
