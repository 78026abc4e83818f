"""What the controller can know before the first test."""

from __future__ import annotations

from pytest_lakebranch.config import Settings
from pytest_lakebranch.host.choice import facts
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.state import State, sockets_root
from pytest_lakebranch.steps.kinds import parse_all


def check(settings: Settings) -> ProviderFacts:
    """Raise the error that the first test would meet: a step without its file, no PostgreSQL, no usable directory.

    Nothing is started; a few milliseconds.
    """
    parse_all(settings.base, settings)
    sockets_root()
    return facts(settings, State.at(settings.home).ensure())
