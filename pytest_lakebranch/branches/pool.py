"""Started branches of one fork point, kept ahead of demand and shared by all workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from pytest_lakebranch.branches.background import Background
from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.base import Compute, Provider


class Pool:
    """Spares of one fork point, all started; ``spares`` of them are kept ready while the pool is open.

    Starts and stops happen on ``background``; :meth:`take` waits for a start only when no spare is idle.
    """

    def __init__(
        self, provider: Provider, at: ForkPoint, *, name: Callable[[], str], spares: int, background: Background
    ) -> None:
        self.at = at
        self._provider = provider
        self._name = name
        self._spares = spares
        self._background = background
        self._changed = threading.Condition()
        self._idle: deque[Compute] = deque()
        self._starting = 0
        self._waiting = 0
        self._lent = 0
        self._failures: deque[LakebranchError] = deque()
        self._retired = False

    def take(self) -> Compute:
        """A started branch in the fork point's state, marked; it belongs to the caller until it is given back.

        Raises the provider's error when a start fails while the caller waits.
        """
        while True:
            compute = self._next()
            try:
                compute.mark()
            except BranchError:  # it died while it was idle; the next one is as good
                self.give_back(compute, reusable=False)
            else:
                return compute

    def _next(self) -> Compute:
        with self._changed:
            self._waiting += 1
            self._refill()
            try:
                self._changed.wait_for(lambda: self._idle or self._failures or self._retired)
            finally:
                self._waiting -= 1
            if self._retired:
                raise BranchError("the run is ending: no more branches are given out.")
            if not self._idle:
                raise self._failures.popleft()
            self._lent += 1
            compute = self._idle.pop()
            self._refill()
            return compute

    def give_back(self, compute: Compute, *, reusable: bool, disposable: bool = False) -> None:
        """End a loan. A reusable branch becomes a spare again; another one is thrown away in the background."""
        with self._changed:
            if reusable and not self._retired and len(self._idle) <= self._spares:
                self._lent -= 1
                self._idle.append(compute)
                self._changed.notify()
                return
        self._background.submit(self._discard, compute, disposable=disposable)

    def retire(self) -> None:
        """Give out nothing more; throw the spares away and, once the last loan has ended, forget the fork point."""
        with self._changed:
            self._retired = True
            spares = list(self._idle)
            self._idle.clear()
            self._lent += len(spares)
            self._changed.notify_all()
            nothing_left = not (self._lent or self._starting)
        if nothing_left:
            self._provider.forget(self.at)
        for compute in spares:
            self._background.submit(self._discard, compute, disposable=False)

    def _refill(self) -> None:
        wanted = self._spares + self._waiting - len(self._idle) - self._starting
        if self._retired or wanted <= 0:
            return
        for _ in range(wanted):
            self._starting += 1
            self._background.submit(self._start)

    def _start(self) -> None:
        if self._retired:
            self._account(started=None)
            return
        try:
            compute = self._provider.start(self._name(), self.at)
        except LakebranchError as error:
            self._account(started=None, failure=error)
        else:
            self._account(started=compute)

    def _account(self, *, started: Compute | None, failure: LakebranchError | None = None) -> None:
        with self._changed:
            self._starting -= 1
            keep = started is not None and not self._retired
            if started is not None and keep:
                self._idle.append(started)
            elif started is not None:
                self._lent += 1
            elif failure is not None and self._waiting > len(self._failures):
                self._failures.append(failure)
            self._changed.notify()
        if started is not None and not keep:
            self._discard(started, disposable=False)

    def _discard(self, compute: Compute, *, disposable: bool) -> None:
        try:
            compute.discard(disposable=disposable)
        finally:
            with self._changed:
                self._lent -= 1
                last = self._retired and not (self._lent or self._starting)
            if last:
                self._provider.forget(self.at)
