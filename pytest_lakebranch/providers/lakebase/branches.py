"""Making and deleting branches: each call may fail on our side and land on theirs, and none may be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers._budget import Budget
from pytest_lakebranch.providers._rest import is_quota
from pytest_lakebranch.providers.lakebase.api import TTL_CAP, Api, Host
from pytest_lakebranch.waiting import Clock, Deadline

SHORTEST_TTL = 300.0
FIRST_LOOK, LONGEST_LOOK = 0.15, 1.0
"""Seconds between looks at a branch that is on its way."""
OPERATION_EVERY = 8
"""Looks after which the operation is asked why it takes so long."""
CHILDREN_PAUSE = 0.5
REFUSED = range(400, 500)
"""Statuses of a create after which there is nothing to delete."""


@dataclass(slots=True)
class Pace:
    """How long a branch takes to be there, learnt from those before: no look is spent on what cannot be."""

    seconds: float = 0.0

    def learn(self, seconds: float) -> None:
        """One more took this long."""
        self.seconds = seconds if not self.seconds else 0.7 * self.seconds + 0.3 * seconds

    @property
    def first_look(self) -> float:
        """Seconds after which to look for the first time."""
        return max(FIRST_LOOK, self.seconds * 1.02)


@dataclass(slots=True)
class Branches:
    """Branches of one project within a budget. ``ttl`` is in seconds, and shrinks to what the workspace allows."""

    api: Api
    budget: Budget
    ttl: float
    retention: float
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=Pace)
    troubles: list[BaseException] = field(default_factory=list)
    _working: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8, "lakebranch-delete"))

    def create(self, branch_id: str, source: Mapping[str, Any], deadline: Deadline) -> tuple[str, Host]:
        """A branch that is there, with its endpoint: its path and where to log in. Takes from the budget.

        Raises BranchError or CloudError; then it is deleted, should it be there after all.
        """
        while True:
            self.budget.take(deadline)
            try:
                found = self._create(branch_id, source, deadline)
            except CloudError as error:
                self._gone(branch_id, error)
                if not _is_full(error):
                    raise
                self.budget.believe(error.brief)
                if deadline.passed:
                    raise
            except BaseException:
                self.delete(self.path(branch_id))
                raise
            else:
                self.budget.succeeded()
                return found

    def _gone(self, branch_id: str, error: CloudError) -> None:
        """See that nothing is left of a branch that could not be made, and give back what it took of the budget."""
        if error.status in REFUSED and not error.unsure and error.doing == _doing(branch_id):
            self.budget.give_back(used=False)
        else:
            self.delete(self.path(branch_id))

    def path(self, branch_id: str) -> str:
        """A branch's full name."""
        return f"{self.api.project}/branches/{branch_id}"

    def _create(self, branch_id: str, source: Mapping[str, Any], deadline: Deadline) -> tuple[str, Host]:
        began = self.clock.now()
        operation = self._begin(branch_id, source, deadline)
        host = self._await(branch_id, operation, deadline)
        self.pace.learn(self.clock.now() - began)
        return self.path(branch_id), host

    def _begin(self, branch_id: str, source: Mapping[str, Any], deadline: Deadline) -> str:
        while True:
            try:
                return self.api.create(branch_id, {**source, **self.expiration}, deadline)
            except CloudError as error:
                if TTL_CAP not in error.message or self.ttl <= SHORTEST_TTL:
                    raise
                self.ttl = max(SHORTEST_TTL, min(self.retention, self.ttl / 2))

    @property
    def expiration(self) -> dict[str, str]:
        """The end of a new branch, counted by the service's clock."""
        return {"ttl": f"{int(self.ttl)}s"}

    def _await(self, branch_id: str, operation: str, deadline: Deadline) -> Host:
        path, pause, looks = self.path(branch_id), self.pace.first_look, 0
        while True:
            self.clock.sleep(min(pause, max(deadline.left, 0.001)))
            host = self.api.host_of(path, deadline)
            if host is not None:
                return host
            looks += 1
            if deadline.passed:
                raise BranchError(f"branch {branch_id} was not there after {deadline.seconds:.0f} s.")
            if operation and looks % OPERATION_EVERY == 0:
                self._check(operation, branch_id, deadline)
            pause = FIRST_LOOK if looks == 1 else min(pause * 1.3, LONGEST_LOOK)

    def _check(self, operation: str, branch_id: str, deadline: Deadline) -> None:
        error = self.api.operation(operation, deadline).get("error")
        if error:
            raise _failure(error, _doing(branch_id))

    def keep_forever(self, path: str) -> None:
        """Take a branch's expiry away, so that it may have children; returns when that is done. Raises CloudError."""
        operation, deadline = (
            self.api.set_expiration(path, {"no_expiry": True}),
            Deadline(self.api.patience, self.clock),
        )
        pause = FIRST_LOOK
        while operation:
            found = self.api.operation(operation, deadline)
            if found.get("error"):
                raise _failure(found["error"], f"changing the expiration of {path}")
            if found.get("done"):
                return
            if deadline.passed:
                raise BranchError(f"the expiration of {path} was not changed after {deadline.seconds:.0f} s.")
            self.clock.sleep(pause)
            pause = min(pause * 1.3, LONGEST_LOOK)

    # -- deleting

    def delete(self, path: str) -> None:
        """Delete a branch in the background, and give back what it took of the budget."""
        try:
            self.later(self._delete, path)
        except RuntimeError:  # closed: at once, then
            self._delete(path)

    def later(self, work: Callable[..., None], *args: object) -> None:
        """Do ``work`` in the background; what goes wrong is added to ``troubles``. Raises RuntimeError when closed."""
        self._working.submit(work, *args).add_done_callback(self._note)

    def _note(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            self.troubles.append(error)

    def _delete(self, path: str) -> None:
        try:
            self.delete_now(path, Deadline(self.api.patience, self.clock))
        finally:
            self.budget.give_back()

    def delete_now(self, path: str, deadline: Deadline, status: Mapping[str, Any] | None = None) -> None:
        """Delete a branch; one whose children are being deleted is tried again. Raises CloudError or BranchError."""
        while True:
            try:
                return self.api.delete(path, status=status)
            except CloudError as error:
                if "children" not in error.message or deadline.left <= CHILDREN_PAUSE:
                    raise
            self.clock.sleep(CHILDREN_PAUSE)

    def close(self) -> None:
        """Finish what was to be deleted."""
        self._working.shutdown(wait=True)


def _doing(branch_id: str) -> str:
    return f"creating branch {branch_id}"


def _is_full(error: CloudError) -> bool:
    return is_quota(error.code, error.message) and error.status in (0, 400, 403, 409, 429)


def _failure(error: Mapping[str, Any], doing: str) -> CloudError:
    """The error with which an operation ended."""
    failure = CloudError(str(error.get("message", "no reason given")), code=str(error.get("error_code", "")))
    failure.doing = doing
    return failure
