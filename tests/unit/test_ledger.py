"""The host's record."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.ledger import Ledger, entries


def test_what_is_entered_is_found_again(tmp_path: Path) -> None:
    """In order, up to a line that was cut off."""
    ledger = Ledger(tmp_path / "ledger")
    ledger.enter("lease", lease="l1")
    ledger.enter("release", lease="l1")
    ledger.close()
    with (tmp_path / "ledger").open("a") as file:
        file.write('{"event": "le')
    assert [entry["event"] for entry in entries(tmp_path / "ledger")] == ["lease", "release"]


def test_a_full_disk() -> None:
    """It is said once; then the record has ended, and nobody is bothered any more."""
    ledger = Ledger(Path("/dev/full"))
    with pytest.raises(MachineError, match=r"record of this run ends early: No space left on device"):
        ledger.enter("lease", lease="l1")
    ledger.enter("release", lease="l1")
    ledger.close()
