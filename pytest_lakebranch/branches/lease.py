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
from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import Ending, ForkPoint, Grant, Lease, LeaseEnd
from pytest_lakebranch.providers.base import Compute

Purpose = Literal["test", "worker", "run", "fixture", "fork"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a worker asks for. ``base`` is the key of a ready base; ``parent`` is a lease, None for the base itself.

    ``at``: a time, or a position in the log, of the source that the base comes from.
    ``present``: spares of the parent's present state are kept, because tests will ask for it again.
    """

    worker: str
    test: str
    purpose: Purpose
    base: str
    parent: str | None = None
    disposable: bool = False
    present: bool = False
    at: str | None = None


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
    kept: Kept | None = None
    death_seen: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.address.lead_first_to(self.compute.endpoint)

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

    def death(self, seen: str) -> str | None:
        """What the server said last if it has died, and when that was seen before ``seen``; None while it lives."""
        with self.lock:
            words = self.compute.death()
            self.death_seen = (self.death_seen or seen) if words is not None else ""
            before = f" (seen {self.death_seen})" if self.death_seen != seen else ""
            return None if words is None else words + before

    def reset(self) -> Grant:
        """Put a branch in the state the loan began with behind the same address."""
        with self.lock:
            if self.request.disposable or not self._is_put_back():
                used, self.compute = self.compute, self.pool.take()
                self.address.lead_to(self.compute.endpoint)
                self._give_back(used, "replace")
            return self.grant

    def _is_put_back(self) -> bool:
        try:
            self.compute.end_connections()
            if self.compute.change() is not None and self.compute.rewind() is not None:
                return False
            self.compute.settle()
        except BranchError:
            return False
        return True

    def end(self, *, lost: str | None = None, note: Kept | None = None) -> LeaseEnd:
        """Cut the branch off from its clients, decide what becomes of it, and give it back.

        ``lost`` says why the borrower cannot be trusted to be done with it; the branch is then replaced. With ``note``
        it is kept; where that fails, the reason tells.
        """
        with self.lock:
            ending_since = time.monotonic()
            self.address.remove()
            if self.children is not None:
                self.children.retire()
            try:
                connections = self.compute.end_connections()
            except BranchError as error:
                connections, lost = 0, lost or str(error)
            ending, reason = self._decide(lost) if note is None else self._keep(note)
            releasing = time.monotonic() - ending_since
            end = LeaseEnd(ending, reason, connections, ending_since - self.began, releasing)
            self.record = replace(self.record, end=end)
            return end

    def _keep(self, note: Kept) -> tuple[Ending, str]:
        try:
            self.kept = self.pool.keep(self.compute, note)
        except LakebranchError as error:
            return "replace", f"could not be kept: {error}"
        return "keep", note.reason

    def _decide(self, lost: str | None) -> tuple[Ending, str]:
        ending, reason = self._judge(lost)
        self._give_back(self.compute, ending)
        return ending, reason

    def _judge(self, lost: str | None) -> tuple[Ending, str]:
        if lost is not None:
            return "replace", lost
        if self.request.disposable:
            return "replace", "destructive"
        change = self.compute.change()
        if change is None:
            return "clean", "nothing was written"
        refusal = self.compute.rewind()
        return ("rewind", change) if refusal is None else ("replace", refusal)

    def _give_back(self, compute: Compute, ending: Ending) -> None:
        reusable = ending in ("clean", "rewind")
        self.pool.give_back(compute, reusable=reusable, disposable=self.request.disposable)
