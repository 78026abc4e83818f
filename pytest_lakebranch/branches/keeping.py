"""Whose branches a run keeps, and for how long."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pytest_lakebranch.config import Settings
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import Lease


@dataclass(frozen=True, slots=True)
class Keeping:
    """The rule of one run. Only a test's own branch is ever kept: others are not what a test left."""

    run: str
    settings: Settings

    def note(self, record: Lease, *, failed: str) -> Kept | None:
        """What to leave with the branch of an ending lease, None if it is not to be kept; ``failed`` tells how its test
        failed, and is empty when it did not.
        """
        which = self.settings.keep
        if record.purpose != "test" or which == "never" or (which == "failed" and not failed):
            return None
        now = time.time()
        return Kept(
            self.run,
            record.branch,
            record.test,
            record.worker,
            failed or "asked for",
            self.settings.root,
            now,
            now + self.settings.keep_seconds,
            self.settings.to_json(),
        )
