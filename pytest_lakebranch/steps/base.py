"""What every step is, what it may consist of, and what it is given to work on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeGuard

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import Binaries


@dataclass(frozen=True, slots=True)
class Replacement:
    """How a step puts the files of another server in the place of those that its own works on.

    ``directory()`` makes an empty directory for an online backup (pg_basebackup) of a server of the same format without
    tablespaces; None where no such thing is taken. ``take_over(database)`` makes that database of it the base, and
    nothing else of it: the workplace's server is gone then, and the step must be over. Raises LakebranchError.
    """

    directory: Callable[[], Path | None]
    take_over: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Workplace:
    """The server a step works on: where it is, and the programs that fit it.

    The role of ``endpoint`` is a superuser while steps run, so that they may create extensions and roles.
    ``replacement`` is given to the first step of a base.
    """

    endpoint: Endpoint
    binaries: Binaries
    root: Path
    replacement: Replacement | None = None


class Unit(Protocol):
    """What is cached as a whole: a step, or one of those that a divided step consists of."""

    @property
    def label(self) -> str:
        """How messages name it, such as ``sql:schema.sql`` or ``sql:migrations V2__price.sql``."""

    def fingerprint(self) -> str:
        """A string that differs whenever it would do something else.

        Reads files; never changes anything, never connects. ConfigError when a file is missing.
        """

    def apply(self, place: Workplace) -> str:
        """Change the database; return how much it did in a few words (``12,500 rows``, ``1.2 MB``).

        Raises BaseError that names the file, the statement and the server's message.
        """


class Step(Unit, Protocol):
    """One way to change a base. Its label is as the user wrote it."""


class Migration(Unit, Protocol):
    """One of the migrations that a step consists of."""

    @property
    def revision(self) -> str:
        """What the tool calls it: ``3f2a9c``, ``shop.0004_price``, ``2``; no two of a step are the same."""

    @property
    def name(self) -> str:
        """What a person calls it; may be empty."""

    @property
    def source(self) -> Path:
        """The file it is written in."""

    @property
    def reversible(self) -> bool:
        """Whether the tool can roll it back; False also when it is declared irreversible."""

    def rollback(self, place: Workplace) -> str:
        """Undo it in a database where it was the last to be applied; as :meth:`apply` otherwise.

        Raises BaseError, also when it is not reversible.
        """


class Divided(Step, Protocol):
    """A step that consists of units, each with a layer of its own if that is worth it."""

    def units(self) -> Sequence[Unit]:
        """All units in the order in which they are applied; ConfigError when there is no such order.

        Those that are migrations are of the protocol Migration.
        """

    def apply_units(self, first: int, count: int, place: Workplace) -> str:
        """Apply ``count`` units from number ``first`` on, those before being applied; what this did, in a few words.

        The same as applying each, and quicker where the tool has something to load. Raises as :meth:`Unit.apply`.
        """

    def open(self) -> AbstractContextManager[None]:
        """Keep what the tool has loaded until the block ends, for many calls in a row; blocks may be nested."""


def is_divided(step: Step) -> TypeGuard[Divided]:
    """Whether the step consists of units."""
    return hasattr(step, "units")


def units_of(step: Step) -> Sequence[Unit]:
    """The units of a step: itself if it is not divided."""
    return step.units() if is_divided(step) else (step,)


def is_migration(unit: Unit) -> TypeGuard[Migration]:
    """Whether the unit is a migration."""
    return hasattr(unit, "revision")


def migrations_of(step: Step) -> list[Migration]:
    """The migrations that a step consists of, in the order in which they are applied; none for other steps."""
    return [unit for unit in units_of(step) if is_migration(unit)] if is_divided(step) else []


Seed = Callable[..., object]
"""A Python function that gets a psycopg connection and fills the database."""
