"""A worker's line to the engine without a host between them, for tests and for measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pytest_lakebranch.branches.base import Bases, Plan, Ticket
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find


@dataclass
class Line:
    """Answers as HostClient does, and notes what is asked of it. ``each``: seconds that a unit is said to take."""

    bases: Bases
    each: float | None = None
    programs: Path = field(default_factory=lambda: find("auto").directory)
    first: int | None = None
    batches: list[int] = field(default_factory=list)
    broken: bool = False

    def base(self, plan: Plan) -> tuple[str, Ticket | None, Path]:
        """See HostClient."""
        ticket = self.bases.request("gw0", plan)
        self.first = None if ticket is None else ticket.next
        return self.bases.key(plan), ticket, self.programs

    def stepped(self, ticket: str, done: int, seconds: float, *, keep: bool) -> Endpoint:
        """See HostClient."""
        units = done - (self.batches[-1] if self.batches else self.first or 0)
        self.batches.append(done)
        return self.bases.stepped(ticket, done, seconds if self.each is None else units * self.each, keep=keep)

    def incoming(self, ticket: str) -> Path | None:
        """See HostClient."""
        return self.bases.incoming(ticket)

    def replaced(self, ticket: str, database: str) -> None:
        """See HostClient."""
        self.bases.replaced(ticket, database)

    def built(self, ticket: str) -> None:
        """See HostClient."""
        self.bases.finish(ticket)

    def died(self, ticket: str) -> str | None:
        """See HostClient."""
        return self.bases.died(ticket)

    def failed(self, ticket: str, message: str) -> None:
        """See HostClient."""
        self.bases.fail(ticket, message)
