"""Building a base in this process, without a host."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.branches.base import Bases, Plan, Ticket
from pytest_lakebranch.building import Builder
from pytest_lakebranch.config import Settings
from pytest_lakebranch.environment import Seat
from pytest_lakebranch.model import Endpoint, ForkPoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.steps.base import Step

WORKER = "command"


@dataclass(frozen=True, slots=True)
class _OwnTickets:
    """See Tickets."""

    bases: Bases
    programs: Path
    broken: bool = False

    def base(self, plan: Plan) -> tuple[str, Ticket | None, Path]:
        return self.bases.key(plan), self.bases.request(WORKER, plan), self.programs

    def stepped(self, ticket: str, done: int, seconds: float, *, keep: bool = False) -> Endpoint:
        return self.bases.stepped(ticket, done, seconds, keep=keep)

    def incoming(self, ticket: str) -> Path | None:
        return self.bases.incoming(ticket)

    def replaced(self, ticket: str, database: str) -> None:
        self.bases.replaced(ticket, database)

    def built(self, ticket: str) -> None:
        self.bases.finish(ticket)

    def died(self, ticket: str) -> str | None:
        return self.bases.died(ticket)

    def failed(self, ticket: str, message: str) -> None:
        self.bases.fail(ticket, message)


def build(
    provider: LocalProvider, steps: Sequence[Step], settings: Settings, progress: Progress, seat: Seat | None = None
) -> tuple[str, ForkPoint]:
    """The base that ``steps`` make and its key, from the cache or built now.

    Raises BaseError, ConfigError and MachineError.

    ``seat`` is led to where the steps work. What they print goes to standard error: standard output is the command's.
    """
    bases = Bases(provider, name=lambda: "base", rebuild=settings.rebuild)
    try:
        tickets = _OwnTickets(bases, find(settings.postgres).directory)
        builder = Builder(tickets, progress, Path(settings.root), seat, settings.lock_seconds)
        with _printing_to_errors():
            key = builder.ensure(steps)
        return key, bases.fork_point(key)
    finally:
        bases.close()


@contextmanager
def _printing_to_errors() -> Iterator[None]:
    """Standard output is standard error until the block ends, also for programs that are started in it."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
