"""Leases: what may be asked for, what is on loan, and how a loan ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

from pytest_lakebranch.branches.address import Address
from pytest_lakebranch.branches.pool import Pool
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import Ending, ForkPoint, Grant, Lease, LeaseEnd
from pytest_lakebranch.providers.base import Compute

Purpose = Literal["test", "worker", "run", "fixture", "fork"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker asks for. ``base`` is the key of a ready base; ``parent`` is a lease, None for the base itself.

    ``present``: spares of the parent's present state are kept, because tests will ask for it again.
    """

    worker: str
    test: str
    purpose: Purpose
    base: str
    parent: str | None = None
    disposable: bool = False
    present: bool = False


@dataclass(slots=True)
class Loan:
    """One branch on loan; ``children`` holds branches forked from its present state."""

    id: str
    request: Request
    pool: Pool
    compute: Compute
    address: Address
    record: Lease
    began: float = field(default_factory=time.monotonic)
    children: Pool | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.address.lead_to(self.compute.endpoint)

    @property
    def grant(self) -> Grant:
        """The loan as its borrower sees it. A disposable branch is handed to a superuser."""
        where = self.address.seen(self.compute.admin if self.request.disposable else self.compute.endpoint)
        return Grant(self.id, self.record.branch, self.record.parent, where, self.record.waited)

    @contextmanager
    def present(self, open_pool: Callable[[ForkPoint], Pool]) -> Iterator[Pool]:
        """Branches of the present state, to be taken in the block; the same ones until something is written."""
        with ExitStack() as stack:
            with self.lock:
                at = self.compute.fork_point()
                if self.children is None or self.children.at != at:
                    if self.children is not None:
                        self.children.retire()
                    self.children = open_pool(at)
                pool = stack.enter_context(self.children.held())
            yield pool

    def reset(self) -> Grant:
        """Put a branch in the state the loan began with behind the same address."""
        with self.lock:
            fresh = self.pool.take()
            used, self.compute = self.compute, fresh
            self.address.lead_to(fresh.endpoint)
            _, stubborn = _cut_off(used)
            clean = not (self.request.disposable or stubborn) and used.change() is None
            self._give_back(used, clean=clean)
            return self.grant

    def end(self, *, lost: str | None = None) -> LeaseEnd:
        """Cut the branch off from its clients, decide what becomes of it, and give it back.

        ``lost`` says why the borrower cannot be trusted to be done with it; the branch is then replaced.
        """
        with self.lock:
            ending_since = time.monotonic()
            self.address.remove()
            if self.children is not None:
                self.children.retire()
            connections, stubborn = _cut_off(self.compute)
            ending, reason = self._decide(lost or stubborn)
            self._give_back(self.compute, clean=ending == "clean")
            releasing = time.monotonic() - ending_since
            end = LeaseEnd(ending, reason, connections, ending_since - self.began, releasing)
            self.record = replace(self.record, end=end)
            return end

    def _decide(self, lost: str | None) -> tuple[Ending, str]:
        if lost is not None:
            return "replace", lost
        if self.request.disposable:
            return "replace", "destructive"
        change = self.compute.change()
        return ("clean", "nothing was written") if change is None else ("replace", change)

    def _give_back(self, compute: Compute, *, clean: bool) -> None:
        self.pool.give_back(compute, reusable=clean, disposable=self.request.disposable)


def _cut_off(compute: Compute) -> tuple[int, str | None]:
    """End a branch's connections: how many there were, and why the branch must not be used again, if so."""
    try:
        return compute.end_connections(), None
    except BranchError as error:
        return 0, str(error)
