"""Making and deleting branches: each call may fail on our side and land on theirs, and none may be forgotten."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.providers._budget import Budget
from pytest_lakebranch.providers._rest import is_quota
from pytest_lakebranch.providers.lakebase.api import ATTEMPTS, FIRST_LOOK, TTL_CAP, Api, Host, is_mishap
from pytest_lakebranch.providers.lakebase.arrival import Arrival
from pytest_lakebranch.providers.lakebase.upstream import TOO_MANY
from pytest_lakebranch.waiting import Clock, Deadline

T = TypeVar("T")
LOG = logging.getLogger("pytest_lakebranch.lakebase")
SHORTEST_TTL = 300.0
FIRST_LOOK_AT_MOST = 2.0
"""Seconds: a service that was slow for a while is not waited for ever after."""
RESIZE_SECONDS = 30.0
"""For making an endpoint smaller: nobody waits for it but the end of the run."""
REFUSED = range(400, 500)
"""Statuses of a create after which there is nothing to delete."""


@dataclass(slots=True)
class Pace:
    """How long branches take to come, to let us in, or to go, learnt from those before: no look is spent on what cannot
    be. The first one is after ``least`` seconds at the earliest.
    """

    least: float = FIRST_LOOK
    seconds: float = 0.0

    def learn(self, seconds: float, *, at_once: bool) -> None:
        """One more took this long; ``at_once``: the first look found it, and an earlier one might have."""
        if not self.seconds:
            self.seconds = seconds
        else:
            self.seconds = 0.95 * min(self.seconds, seconds) if at_once else 0.7 * self.seconds + 0.3 * seconds

    @property
    def first_look(self) -> float:
        """Seconds after which to look for the first time."""
        return min(max(self.least, self.seconds * 1.02), FIRST_LOOK_AT_MOST)


@dataclass(slots=True)
class Branches:
    """Branches of one project within a budget. ``wanted_ttl`` is in seconds; ``longest`` is what the workspace allows,
    as far as it is known.
    """

    api: Api
    budget: Budget
    wanted_ttl: float
    retention: float
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=Pace)
    welcome: Pace = field(default_factory=lambda: Pace(least=0.0))
    departure: Pace = field(default_factory=Pace)
    longest: float = math.inf
    troubles: list[BaseException] = field(default_factory=list)
    _working: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, "lakebranch-delete"))
    _tending: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, "lakebranch-tend"))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _end: Deadline | None = None

    def create(
        self,
        ids: Iterator[str],
        source: Callable[[], Mapping[str, Any]],
        deadline: Deadline,
        let_in: Callable[[str, Host], T],
    ) -> tuple[str, Host, T]:
        """A branch that is there: its path, where to log in, and what ``let_in`` makes of both. Takes from the budget.

        Each attempt has an id of its own: what an earlier one may have left is being deleted by its name. One for which
        the service has no room, at the creation or at the login, is made again when there is some; one that failed by a
        mishap at once.
        Raises BranchError or CloudError; then it is deleted, should it be there after all.
        """
        mishaps = 0
        while True:
            self.budget.take(deadline)
            branch_id = next(ids)
            try:
                path, host = self._create(branch_id, source(), deadline)
                found = path, host, let_in(path, host)
            except CloudError as error:
                still_taken = self._gone(branch_id, error)
                mishaps += is_mishap(error)
                if _is_full(error):
                    self.budget.believe(error.brief, useless=still_taken)
                elif not is_mishap(error) or mishaps == ATTEMPTS:
                    raise
                if deadline.passed:
                    raise
            except BaseException:
                self.delete(self.path(branch_id))
                raise
            else:
                self.budget.succeeded()
                return found

    def _gone(self, branch_id: str, error: CloudError) -> int:
        """See that nothing is left of a branch that could not be made, and give back what it took of the budget; how
        much of that is to be given back later.
        """
        if error.status in REFUSED and not error.unsure and error.doing == _doing(branch_id):
            self.budget.give_back(used=False)
            return 0
        self.delete(self.path(branch_id), used=False)
        return 1

    def path(self, branch_id: str) -> str:
        """A branch's full name."""
        return f"{self.api.project}/branches/{branch_id}"

    def _create(self, branch_id: str, source: Mapping[str, Any], deadline: Deadline) -> tuple[str, Host]:
        began = self.clock.now()
        operation = ""

        def create(ttl: float) -> None:
            nonlocal operation
            operation = self.api.create(branch_id, {**source, **_expiration(ttl)}, deadline)

        self._within_longest(self.ttl, create)
        arrival = Arrival(self.api, self.path(branch_id), operation, _doing(branch_id), deadline)
        host, looks = arrival.wait(self.pace.first_look)
        self.pace.learn(self.clock.now() - began, at_once=looks == 1)
        return self.path(branch_id), host

    def _within_longest(self, seconds: float, call: Callable[[float], None]) -> float:
        """Call with a time to live of so many seconds, or as many as the workspace allows; how many."""
        while True:
            sent = max(SHORTEST_TTL, min(seconds, self.longest))
            try:
                call(sent)
            except CloudError as error:
                if TTL_CAP not in error.message or sent <= SHORTEST_TTL:
                    raise
                self._learn_longest(self.retention if sent > self.retention else sent / 2)
            else:
                return sent

    def _learn_longest(self, seconds: float) -> None:
        with self._lock:
            self.longest = max(SHORTEST_TTL, min(self.longest, seconds))

    @property
    def ttl(self) -> float:
        """Seconds after which a branch of ours expires when nobody renews it, counted by the service's clock."""
        return min(self.wanted_ttl, self.longest)

    def keep_forever(self, path: str) -> None:
        """Take a branch's expiry away, so that it may have children. Raises CloudError or BranchError."""
        self.api.set_expiration(path, {"no_expiry": True}, self._patience(self.api.patience))

    def set_ttl(self, path: str, seconds: float, patience: float | None = None) -> float:
        """Let a branch live so many seconds from now on, or as many as the workspace allows; how many.

        Raises CloudError or BranchError.
        """
        deadline = self._patience(self.api.patience if patience is None else patience)
        return self._within_longest(seconds, lambda ttl: self.api.set_expiration(path, _expiration(ttl), deadline))

    def make_small(self, endpoint: str) -> None:
        """Give an endpoint the smallest compute. Raises CloudError or BranchError."""
        self.api.make_small(endpoint, self._patience(min(RESIZE_SECONDS, self.api.patience)))

    def _patience(self, seconds: float) -> Deadline:
        return Deadline(seconds if self._end is None else min(seconds, self._end.left), self.clock)

    # -- deleting

    def delete(self, path: str, then: Callable[[], None] = lambda: None, *, used: bool = True) -> None:
        """Delete a branch in the background, give back what it took of the budget, more than was there before if it was
        ``used``, and do what is to be done ``then``, when it is gone. Where that fails, the sweep at the end tries
        again.
        """
        with self._lock:
            if self._end is None:
                with contextlib.suppress(RuntimeError):  # no thread can be started now; it is in the line all the same
                    self._working.submit(self._delete, path, then, used=used).add_done_callback(_log)
                return
        self._delete(path, then, used=used)

    def later(self, work: Callable[..., None], *args: object) -> None:
        """Do ``work`` in the background, where no deletion waits for it; what goes wrong is added to ``troubles``. What
        was not begun when all is closed is not done. Raises RuntimeError when closed.
        """
        self._tending.submit(work, *args).add_done_callback(self._note)

    def _note(self, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self.troubles.append(error)

    def _delete(self, path: str, then: Callable[[], None], *, used: bool) -> None:
        began = self.clock.now()
        try:
            looks = self.api.delete(path, self._patience(self.api.patience), first_look=self.departure.first_look)
            if looks:
                self.departure.learn(self.clock.now() - began, at_once=looks == 1)
        finally:
            self.budget.give_back(used=used)
        then()

    def close(self) -> None:
        """Finish what was to be deleted, as far as that is possible within the patience for a call."""
        self._tending.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._end = self._patience(self.api.patience)
        self._working.shutdown(wait=True)
        self._tending.shutdown(wait=True)


def _log(done: Future[None]) -> None:
    error = done.exception()
    if error is not None:
        LOG.warning("%s", error)


def _doing(branch_id: str) -> str:
    return f"creating branch {branch_id}"


def _is_full(error: CloudError) -> bool:
    """Whether there was no room: for the branch, or for its compute beside those that are active."""
    if error.code == TOO_MANY:
        return True
    return is_quota(error.status, error.code, error.message) and error.status in (0, 400, 403, 409, 429)


def _expiration(ttl: float) -> dict[str, str]:
    return {"ttl": f"{int(ttl)}s"}
