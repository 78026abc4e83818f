"""The host's append-only record of what a run created and how each lease ended: one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import MachineError


class Ledger:
    """Appends entries; a line is written by one ``write``, so that a killed host leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_broken = False

    def enter(self, event: str, **facts: Any) -> None:
        """Append one entry, stamped with the wall-clock time in seconds.

        Raises MachineError when that is not possible, once: what comes later is left out, and the run goes on.
        """
        line = json.dumps({"at": round(time.time(), 4), "event": event, **facts}, default=str).encode() + b"\n"
        if self._is_broken:
            return
        try:
            self._is_broken = os.write(self._file, line) < len(line)
        except OSError as error:
            self._is_broken = True
            raise MachineError(f"the record of this run ends early: {error.strerror} ({self._path}).") from error

    def close(self) -> None:
        """Close the file; entries stay."""
        os.close(self._file)


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a ledger in order, up to a line that is none: the last one may be cut off by a crash."""
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(entry, dict):
            return
        yield entry
