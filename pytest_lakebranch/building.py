"""Running the steps of a base under a ticket."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from pytest_lakebranch.branches.base import CHECKPOINT_AFTER, Plan, Ticket
from pytest_lakebranch.environment import Seat
from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.steps.base import Replacement, Step, Unit, Workplace, is_divided, is_migration, units_of
from pytest_lakebranch.steps.locks import watched

BATCH_SECONDS = 0.5
"""How long some migrations applied at once should take: long enough to gain from it, short enough for checkpoints."""


class Tickets(Protocol):
    """Who knows which bases there are and gives out tickets for those that are missing: the host, or whoever has none.

    See :class:`Bases` for what is raised.
    """

    @property
    def broken(self) -> bool:
        """Whether it is gone, and all tickets are void."""

    def base(self, plan: Plan) -> tuple[str, Ticket | None, Path]:
        """The key of a base, a ticket if the caller is to build it, and PostgreSQL's programs."""

    def stepped(self, ticket: str, done: int, seconds: float, *, keep: bool = False) -> Endpoint:
        """Note progress; where the next unit works."""

    def incoming(self, ticket: str) -> Path | None:
        """An empty directory for the files of another server, None where none are taken."""

    def replaced(self, ticket: str, database: str) -> None:
        """Have a server on these files, of which ``database`` is the base, in the place of the present one."""

    def built(self, ticket: str) -> None:
        """Seal it."""

    def died(self, ticket: str) -> str | None:
        """What its server said last, if it has died."""

    def failed(self, ticket: str, message: str) -> None:
        """Give it up."""


@dataclass(slots=True)
class _Progress:
    """How far a step is, and how many of its units to apply at once: one at first, then as many as seem to fit."""

    step: Step
    units: Sequence[Unit]
    done: int
    size: int = 1
    spent: float = 0.0

    def next(self) -> int:
        """How many. The last one is applied by itself when those before took long: it is edited most often."""
        left = len(self.units) - self.done
        alone = self.spent >= 2 * BATCH_SECONDS or self.ends_otherwise
        return min(self.size, left - 1 if left > 1 and alone else left)

    @property
    def ends_otherwise(self) -> bool:
        """Whether the last unit is none of the migrations that come before it: the next migration goes before it."""
        return len(self.units) > 1 and not is_migration(self.units[-1])

    @property
    def is_before_end(self) -> bool:
        """Whether the migrations are applied, and what follows them is not: here the next migration will begin."""
        return self.ends_otherwise and self.done == len(self.units) - 1

    def took(self, count: int, seconds: float) -> None:
        """Note how long a batch took."""
        self.done += count
        self.spent += seconds
        self.size = self.size * 2 if seconds < BATCH_SECONDS / 2 else max(1, int(count * BATCH_SECONDS / seconds))


@dataclass(slots=True)
class _Watched:
    """What the steps were when the plan was made; the files they read may be edited while they run."""

    steps: Sequence[Step]
    plan: Plan
    unchecked: float = 0.0

    def took(self, seconds: float, *, keep: bool) -> None:
        """Note work, and check whenever the host may seal what it led to (see ``Bases.stepped``)."""
        self.unchecked += seconds
        if keep or self.unchecked >= CHECKPOINT_AFTER:
            self.check()

    def check(self) -> None:
        """BaseError when a step would do something else by now: its layer would have another one's key."""
        self.unchecked = 0.0
        now = Plan.of(self.steps)
        if now.fingerprints == self.plan.fingerprints:
            return
        pairs = zip_longest(self.plan.fingerprints, now.fingerprints)
        place = next(number for number, (old, new) in enumerate(pairs) if old != new)
        label = (self.plan.labels if place < len(self.plan.labels) else now.labels)[place]
        raise BaseError(
            f"{label}: its files changed while the base was being built, so what it did is not cached. Run again. (A "
            "step that writes files itself must not name them in inputs=.)"
        )


@dataclass(frozen=True, slots=True)
class Builder:
    """Runs steps in this process: they may be Python functions of the project under test."""

    client: Tickets
    progress: Progress
    root: Path
    seat: Seat | None
    lock_timeout: float = 30.0

    def ensure(self, steps: Sequence[Step]) -> str:
        """Have the base made of ``steps``, here or by whoever else is at it; return its key. Raises BaseError."""
        with ExitStack() as tools:
            for step in steps:
                if is_divided(step):
                    tools.enter_context(step.open())
            return self._ensure(steps)

    def _ensure(self, steps: Sequence[Step]) -> str:
        plan = Plan.of(steps)
        key, ticket, programs = self.client.base(plan)
        if ticket is None:
            return key
        place = Workplace(ticket.endpoint, find(str(programs)), self.root, self._replacement(ticket))
        watch = _Watched(steps, plan)
        try:
            with self.progress.building(tuple(dict.fromkeys(plan.labels[ticket.next :]))):
                self._apply(watch, ticket, place)
                watch.check()
                self.client.built(ticket.id)
        except BaseException as error:
            if not self.client.broken:  # else the host has noticed, and the ticket is void
                self.client.failed(ticket.id, str(error))
            raise
        return key

    def _replacement(self, ticket: Ticket) -> Replacement | None:
        if ticket.next:
            return None
        return Replacement(partial(self.client.incoming, ticket.id), partial(self.client.replaced, ticket.id))

    def _apply(self, watch: _Watched, ticket: Ticket, place: Workplace) -> None:
        first = 0
        for step in watch.steps:
            units = units_of(step)
            done = min(len(units), max(0, ticket.next - first))
            if done < len(units):
                place = self._finish(_Progress(step, units, done), watch, ticket, place, before=first)
            first += len(units)

    def _finish(self, at: _Progress, watch: _Watched, ticket: Ticket, place: Workplace, *, before: int) -> Workplace:
        """Apply what is left of a step, ``before`` which there were so many units; where the next one works."""
        first, amount = at.done, ""
        while count := at.next():
            if self.seat is not None:  # a step may import application code that connects
                self.seat.lead_to(place.endpoint)
            since = time.monotonic()
            with watched(place, at.step.label, seconds=self.lock_timeout), self._death_told(ticket):
                amount = _applied(at, count, place)
            seconds = time.monotonic() - since
            at.took(count, seconds)
            watch.took(seconds, keep=at.is_before_end)
            endpoint = self.client.stepped(ticket.id, before + at.done, seconds, keep=at.is_before_end)
            place = replace(place, endpoint=endpoint, replacement=None)
        units = len(at.units)
        if units > 1:
            amount = f"{units - first} of {units} units" if first else f"{units} units"
        self.progress.stepped(at.step.label, amount, at.spent)
        return place

    @contextmanager
    def _death_told(self, ticket: Ticket) -> Iterator[None]:
        """A step whose server died knows only that its connection is lost."""
        try:
            yield
        except BaseError as error:
            died = None if self.client.broken else self.client.died(ticket.id)
            if died is not None:
                raise BaseError(f"{error}\nIts server died: {died}") from error
            raise


def _applied(at: _Progress, count: int, place: Workplace) -> str:
    return at.step.apply_units(at.done, count, place) if is_divided(at.step) else at.step.apply(place)
