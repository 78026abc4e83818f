"""What every step is, and what it is given to work on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import Binaries


@dataclass(frozen=True, slots=True)
class Workplace:
    """The server a step works on: where it is, and the programs that fit it.

    The role of ``endpoint`` is a superuser while steps run, so that they may create extensions and roles.
    """

    endpoint: Endpoint
    binaries: Binaries
    root: Path


class Step(Protocol):
    """One way to change a base."""

    @property
    def label(self) -> str:
        """The step as the user wrote it, such as ``sql:schema.sql``."""

    def fingerprint(self) -> str:
        """A string that differs whenever the step would do something else.

        Reads the step's files; never runs anything, never connects. ConfigError when a file is missing.
        """

    def apply(self, place: Workplace) -> str:
        """Change the database; return how much it did in a few words (``12,500 rows``, ``1.2 MB``).

        Raises BaseError that names the file, the statement and the server's message.
        """


Seed = Callable[..., object]
"""A Python function that gets a psycopg connection and fills the database."""
