"""Building the project's base without pytest."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.cli import own_base, workplace
from pytest_lakebranch.config import Settings
from pytest_lakebranch.environment import Seat
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.state import State
from pytest_lakebranch.steps.kinds import parse_all


def ensure(settings: Settings, state: State) -> tuple[str, bool]:
    """Have the base of ``settings`` in the cache; its key, and whether steps had to run.

    Steps that a ``conftest.py`` supplies by a hook are not known here. Raises LakebranchError.
    """
    with workplace.provider(settings, state) as provider, _seated(settings) as seat:
        steps = parse_all(settings.base, settings, None if seat is None else seat.endpoint)
        wanted = Plan.of(steps).keys(provider.root_key)[-1]
        found = None if settings.rebuild else provider.cached(wanted)
        if found is None:
            wanted, _ = own_base.build(provider, steps, settings, Progress(_terminal()), seat)
        return wanted, found is None


@contextmanager
def _seated(settings: Settings) -> Iterator[Seat | None]:
    """The application's URL leads to where the steps work, as it does in tests."""
    if not settings.env:
        yield None
        return
    seat = Seat(settings)
    try:
        seat.export(os.environ)
        yield seat
    finally:
        seat.close(os.environ)


def _terminal() -> str | None:
    try:
        return os.ttyname(sys.stderr.fileno())
    except OSError:
        return None
