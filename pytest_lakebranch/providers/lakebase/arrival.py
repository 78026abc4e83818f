"""Waiting for a branch that was asked for: most come by themselves, and whoever waits in vain learns why."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers.lakebase.api import FIRST_LOOK, LONGEST_LOOK, NO_ENDPOINT, Api, Host
from pytest_lakebranch.waiting import Deadline

INQUIRE_EVERY = 8
"""Looks after which it is asked why it takes so long."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A branch on its way. ``operation`` makes it; empty for one that was adopted, whose operation nobody knows."""

    api: Api
    path: str
    operation: str
    doing: str
    deadline: Deadline

    def wait(self, pause: float) -> tuple[Host, int]:
        """Where to log in, and how many looks it took; the first one is after ``pause`` seconds.

        Raises CloudError when it does not come, and BranchError at the deadline.
        """
        for looks in itertools.count(1):
            self.api.client.clock.sleep(min(pause, max(self.deadline.left, 0.001)))
            found = self.api.look(self.path, self.deadline)
            if isinstance(found, Host):
                return found, looks
            is_last = self.deadline.passed
            if is_last or looks % INQUIRE_EVERY == 0:
                self._inquire(found)
            if is_last:
                late = f"{self.doing}: it was not there after {self.deadline.seconds:.0f} s: {found}."
                raise BranchError(f"{late} Where the service is that slow, raise lakebranch_deadline.")
            pause = FIRST_LOOK if looks == 1 else min(pause * 1.3, LONGEST_LOOK)
        raise AssertionError  # it is counted without end

    def _inquire(self, found: str) -> None:
        """Learn whether it will come, and give it an endpoint when that is all it lacks."""
        if self.operation and not self.api.is_done(self.operation, self.doing, self.deadline):
            return
        if self._state() == "READY" and found == NO_ENDPOINT:
            self.api.create_endpoint(self.path, self.deadline)

    def _state(self) -> str:
        try:
            view = self.api.branch(self.path, self.deadline)
        except CloudError as error:
            if error.status != 404:
                raise
            gone = CloudError("it was accepted, and there is no such branch", code="ABORTED", passing=True)
            gone.doing = self.doing
            raise gone from error
        return str((view.get("status") or {}).get("current_state", ""))
