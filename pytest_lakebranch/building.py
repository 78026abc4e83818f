"""Running the steps of a base under a ticket."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_lakebranch.branches.base import Plan, Ticket
from pytest_lakebranch.environment import Seat
from pytest_lakebranch.host.client import HostClient
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.steps.base import Step, Workplace


def plan_of(steps: Sequence[Step]) -> Plan:
    """What the host needs to know of the steps."""
    return Plan(tuple(step.fingerprint() for step in steps), tuple(step.label for step in steps))


@dataclass(frozen=True, slots=True)
class Builder:
    """Runs steps in this process: they may be Python functions of the project under test."""

    client: HostClient
    progress: Progress
    root: Path
    seat: Seat | None

    def ensure(self, steps: Sequence[Step]) -> str:
        """Have the base made of ``steps``, here or by whoever else is at it; return its key. Raises BaseError."""
        plan = plan_of(steps)
        key, ticket, programs = self.client.base(plan)
        if ticket is None:
            return key
        try:
            with self.progress.building(plan.labels[ticket.next :]):
                self._apply(steps, ticket, Workplace(ticket.endpoint, find(str(programs)), self.root))
                self.client.built(ticket.id)
        except BaseException as error:
            if not self.client.broken:  # else the host has noticed, and the ticket is void
                self.client.failed(ticket.id, str(error))
            raise
        return key

    def _apply(self, steps: Sequence[Step], ticket: Ticket, place: Workplace) -> None:
        for number, step in enumerate(steps[ticket.next :], ticket.next + 1):
            if self.seat is not None:  # a step may import application code that connects
                self.seat.lead_to(place.endpoint)
            began = time.monotonic()
            amount = step.apply(place)
            seconds = time.monotonic() - began
            place = replace(place, endpoint=self.client.stepped(ticket.id, number, seconds))
            self.progress.stepped(step.label, amount, seconds)
