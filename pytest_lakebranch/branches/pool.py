"""Started branches of one fork point, kept ahead of demand and shared by all workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pytest_lakebranch.branches.background import Background
from pytest_lakebranch.branches.stock import Stock
from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.base import Compute, Provider

ATTEMPTS = 3
"""How often a spare may turn out to have died before that is an error, those not counted that were idle before."""


class Pool:
    """Spares of one fork point, all started; as many as ``stock`` says are kept ready until the pool is retired.

    Starts and stops happen on ``background``; :meth:`take` waits for a start only when no spare is idle. Once the pool
    is retired and nobody uses it any more, the provider forgets the fork point.
    """

    def __init__(
        self, provider: Provider, at: ForkPoint, *, name: Callable[[], str], stock: Stock, background: Background
    ) -> None:
        self.at = at
        self._provider = provider
        self._name = name
        self._stock = stock
        self._background = background
        self._changed = threading.Condition()
        self._idle: deque[Compute] = deque()
        self._failures: deque[LakebranchError] = deque()
        self._starting = 0
        self._waiting = 0
        self._lent = 0
        self._held = 0
        self._retired = False
        self._closed = False
        self._forgotten = False

    @contextmanager
    def held(self) -> Iterator[Pool]:
        """Keep the fork point for as long as the block runs, also if the pool is retired meanwhile."""
        with self._changed:
            self._held += 1
        try:
            yield self
        finally:
            with self._changed:
                self._held -= 1
            self._forget_if_unused()

    def take(self) -> Compute:
        """A started branch in the fork point's state, marked; it belongs to the caller until it is given back.

        Raises the provider's error when a start fails while the caller waits, and BranchError once the pool is closed.
        """
        with self._changed:
            idle = len(self._idle)
        for _ in range(idle + ATTEMPTS - 1):
            compute = self._next()
            with suppress(BranchError):  # it died while it was idle; the next one is as good
                return self._marked(compute)
        return self._marked(self._next())

    def _marked(self, compute: Compute) -> Compute:
        try:
            compute.mark()
        except BaseException:
            self.give_back(compute, reusable=False)
            raise
        return compute

    def _next(self) -> Compute:
        with self._changed:
            self._waiting += 1
            try:
                self._refill()
                self._changed.wait_for(lambda: self._idle or self._failures or self._closed)
                if self._closed:
                    raise BranchError("the run is ending: no more branches are given out.")
                if not self._idle:
                    raise self._failures.popleft()
                self._lent += 1
                return self._idle.pop()
            finally:
                self._waiting -= 1
                while len(self._failures) > self._waiting:  # whom it would have been told has been served
                    self._failures.popleft()
                self._refill()

    def give_back(self, compute: Compute, *, reusable: bool, disposable: bool = False) -> None:
        """End a loan. A reusable branch becomes a spare again; another one is thrown away in the background."""
        with self._changed:
            if reusable and not self._retired and self._stock.keeps(len(self._idle)):
                self._lent -= 1
                if compute.is_settled:
                    self._idle.append(compute)
                    self._changed.notify()
                else:
                    self._starting += 1
                    self._background.submit(self._settle, compute)
                return
            if not reusable:
                self._stock.used_up()
        self._background.submit(self._discard, compute, disposable=disposable)

    def keep(self, compute: Compute, note: Kept) -> Kept:
        """End a loan by leaving its branch for a human. Raises the provider's error; then the branch is gone."""
        with self._loan_ended():
            return compute.keep(note)

    def shed(self) -> bool:
        """Throw away one spare, because somebody else needs its room; False when there is none."""
        with self._changed:
            if not self._idle:
                return False
            compute = self._idle.popleft()
            self._lent += 1
        self._background.submit(self._discard, compute, disposable=False)
        return True

    def _settle(self, compute: Compute) -> None:
        """A spare again, or another one in its place."""
        try:
            compute.settle()
        except BaseException:
            with self._changed:
                self._starting -= 1
                self._lent += 1
                self._refill()
            self._discard(compute, disposable=False)
            raise
        self._account(compute, None)

    def retire(self) -> None:
        """Keep no spares from now on. Whoever holds the pool or has a branch of it may still take one."""
        with self._changed:
            self._retired = True
            spares = list(self._idle)
            self._idle.clear()
            self._lent += len(spares)
        for compute in spares:
            self._background.submit(self._discard, compute, disposable=False)
        self._forget_if_unused()

    def close(self) -> None:
        """Retire the pool and refuse whoever waits or comes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.retire()

    def _refill(self) -> None:
        have = len(self._idle) + self._starting - self._waiting
        spares = 0 if self._retired else self._stock.wanted(have)
        wanted = 0 if self._closed else spares - have
        for _ in range(wanted):
            self._starting += 1
            self._background.submit_start(self._start)

    def _start(self) -> None:
        """Start one branch; whatever goes wrong is told to somebody who waits."""
        compute, failure = None, None
        try:
            if self._is_wanted():
                compute = self._provider.start(self._name(), self.at)
        except LakebranchError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  (a waiter must hear of it: nobody else would wake it)
            failure = BranchError(f"a branch could not be started: {type(error).__name__}: {error}")
        self._account(compute, failure)

    def _is_wanted(self) -> bool:
        with self._changed:
            return not self._closed and (self._waiting > 0 or not self._retired)

    def _account(self, compute: Compute | None, failure: LakebranchError | None) -> None:
        with self._changed:
            self._starting -= 1
            keep = not self._closed and (self._waiting > 0 or not self._retired)
            if compute is not None and keep:
                self._idle.append(compute)
            elif compute is not None:
                self._lent += 1
            elif failure is not None and self._waiting > len(self._failures):
                self._failures.append(failure)
            self._changed.notify_all()
        if compute is not None and not keep:
            self._discard(compute, disposable=False)
        self._forget_if_unused()

    def _discard(self, compute: Compute, *, disposable: bool) -> None:
        with self._loan_ended():
            compute.discard(disposable=disposable)

    @contextmanager
    def _loan_ended(self) -> Iterator[None]:
        """Count one loan less after the block, however it ends."""
        try:
            yield
        finally:
            with self._changed:
                self._lent -= 1
            self._forget_if_unused()

    def _forget_if_unused(self) -> None:
        with self._changed:
            users = self._lent + self._starting + self._waiting + self._held + len(self._idle)
            if not self._retired or self._forgotten or users:
                return
            self._forgotten = True
        self._provider.forget(self.at)
