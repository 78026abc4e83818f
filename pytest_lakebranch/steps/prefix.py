"""The first migrations of a step, as a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from pytest_lakebranch.steps import files
from pytest_lakebranch.steps.base import Divided, Unit, Workplace


class Prefix:
    """A divided step up to its unit number ``count``; its layers are those of the whole step."""

    def __init__(self, step: Divided, count: int) -> None:
        self._step = step
        self._count = count
        self.label = step.label

    def units(self) -> Sequence[Unit]:
        """See Divided."""
        return self._step.units()[: self._count]

    def fingerprint(self) -> str:
        """See Step."""
        return files.fingerprint("prefix", [unit.fingerprint() for unit in self.units()])

    def apply(self, place: Workplace) -> str:
        """See Step."""
        return self.apply_units(0, self._count, place)

    def apply_units(self, first: int, count: int, place: Workplace) -> str:
        """See Divided."""
        return self._step.apply_units(first, count, place)

    def open(self) -> AbstractContextManager[None]:
        """See Divided."""
        return self._step.open()
