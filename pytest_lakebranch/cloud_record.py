"""What a run's directory says of its branches in a cloud, until these are gone: who deletes them needs it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from dataclasses import asdict, dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pytest_lakebranch.state import CLOUD_RECORD

DAYS = 2 * 86400.0
"""How long a record counts that cannot be read."""
ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CloudRecord:
    """Where a run makes branches, how their names show that they are its, whose they are (nobody else may delete them),
    and from when on they need nobody that knows of it (seconds since 1970). ``kept`` are the paths of those that it
    left for a human. No secret is in it.
    """

    host: str
    project: str
    run: str
    owner: str
    until: float
    kept: tuple[str, ...] = ()

    def write(self, directory: Path) -> None:
        """Leave it in a run's directory, at once, for who cleans up after the run."""
        fresh = directory / f"{CLOUD_RECORD}~"
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(asdict(self)))
        fresh.replace(directory / CLOUD_RECORD)

    def keeping(self, path: str) -> CloudRecord:
        """The same, with one more branch that was left for a human."""
        return replace(self, kept=(*self.kept, path))

    def __str__(self) -> str:
        """For a person."""
        return f"{self.project} at {self.host}"


def read(directory: Path) -> CloudRecord | None:
    """The record in a run's directory; None where there is none that can be read."""
    try:
        stored = json.loads((directory / CLOUD_RECORD).read_text())
        return CloudRecord(**{**stored, "kept": tuple(stored.get("kept", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def remove(directory: Path) -> None:
    """The branches are gone."""
    (directory / CLOUD_RECORD).unlink(missing_ok=True)


def is_needed(directory: Path) -> bool:
    """Whether a run's directory has a record, and there may still be something to delete by it.

    After the death date that is in the branches' names any run deletes them. What an emulator on this machine had is
    gone with it.
    """
    record = read(directory)
    if record is None:
        with contextlib.suppress(FileNotFoundError):
            return time.time() < (directory / CLOUD_RECORD).stat().st_mtime + DAYS
        return False
    return time.time() < record.until and not _has_gone(record.host)


def _has_gone(url: str) -> bool:
    """Whether a host is this machine, and nobody listens there."""
    found = urlsplit(url)
    try:
        if not ip_address(found.hostname or "").is_loopback:
            return False
        socket.create_connection((found.hostname, found.port or 443), ANSWER_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        return False
    return False
