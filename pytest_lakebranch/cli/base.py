"""The base of the present directory's project: the keys of its layers."""

from __future__ import annotations

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.config import Settings
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.providers.local.facts import root_key
from pytest_lakebranch.steps.kinds import parse_all


def keys(settings: Settings) -> list[str]:
    """The keys of the project's layers, from the empty state to the finished base, as far as settings tell.

    Steps that a ``conftest.py`` supplies by a hook are not in it. Raises ConfigError and MachineError.
    """
    steps = parse_all(settings.base, settings)
    return Plan.of(steps).keys(root_key(settings, find(settings.postgres)))
