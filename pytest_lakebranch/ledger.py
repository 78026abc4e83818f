"""The host's append-only record of what a run created and how each lease ended: one JSON object a line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Ledger:
    """Appends entries; a line is written by one ``write``, so that a killed host leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def enter(self, event: str, **facts: Any) -> None:
        """Append one entry, stamped with the wall-clock time in seconds."""
        line = json.dumps({"at": round(time.time(), 4), "event": event, **facts}, default=str)
        os.write(self._file, line.encode() + b"\n")

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
