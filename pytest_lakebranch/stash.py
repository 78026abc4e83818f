"""What we keep on pytest's config, by key: never attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_lakebranch.config import Settings
    from pytest_lakebranch.environment import Seat
    from pytest_lakebranch.host.ahead import Ahead
    from pytest_lakebranch.model import ProviderFacts, Summary
    from pytest_lakebranch.reporting.files import Written
    from pytest_lakebranch.run import Run

SETTINGS: pytest.StashKey[Settings] = pytest.StashKey()
SEAT: pytest.StashKey[Seat] = pytest.StashKey()
RUN: pytest.StashKey[Run] = pytest.StashKey()
RUN_ID: pytest.StashKey[str] = pytest.StashKey()
"""The run's id: xdist's where tests are distributed, else one of our own; absent while nothing asked for it."""
FACTS: pytest.StashKey[ProviderFacts] = pytest.StashKey()
AHEAD: pytest.StashKey[Ahead] = pytest.StashKey()
"""The host, where it was started before anybody asked for it."""
SUMMARY: pytest.StashKey[Summary] = pytest.StashKey()
TROUBLE: pytest.StashKey[str] = pytest.StashKey()
"""Why there is no summary."""
REPORTS: pytest.StashKey[tuple[Written, ...]] = pytest.StashKey()
"""What became of the report files."""
CHANGES: pytest.StashKey[tuple[list[str], str]] = pytest.StashKey()
"""What is said of the schema diff, and what kept it from being written."""
TERMINAL: pytest.StashKey[str | None] = pytest.StashKey()
"""The terminal on which progress may be shown, found while pytest does not capture output."""
