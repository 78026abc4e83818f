"""Where a base comes from, and what its migrations make of it."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_lakebranch.steps.base import Step, migrations_of


def before_migrations(steps: Sequence[Step]) -> int:
    """How many steps come before the first that consists of migrations; 0 when there is none."""
    for number, step in enumerate(steps):
        if migrations_of(step):
            return number
    return 0
