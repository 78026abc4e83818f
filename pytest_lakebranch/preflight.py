"""What the controller can know before the first test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_lakebranch import answers
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.host.choice import facts
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.state import State, sockets_root
from pytest_lakebranch.steps.kinds import parse_all


def check(config: pytest.Config, settings: Settings) -> ProviderFacts:
    """Raise the error that the first test would meet: a step without its file, no PostgreSQL, no usable directory.

    Nothing is started; a few milliseconds.
    """
    parse_all([*settings.base, *_steps_of_hooks(config)], settings)
    sockets_root()
    return facts(settings, State.at(settings.home).ensure())


def _steps_of_hooks(config: pytest.Config) -> list[str | Callable[..., object]]:
    """Those that are known by now: a ``conftest.py`` deeper down is not loaded yet, and a hook may be too early."""
    try:
        return answers.steps(config)
    except ConfigError:
        raise
    except Exception:  # noqa: BLE001  (it fails again, and is shown, when the first test asks for the base)
        return []
