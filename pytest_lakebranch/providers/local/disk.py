"""What the system says about a disk, and its refusals in words for a person."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pytest_lakebranch.errors import BranchError, LakebranchError, MachineError

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_IN_LOG = "No space left on device"


def disk_full(directory: Path, doing: str) -> MachineError:
    """The error for a full disk: names the directory and what is free in it."""
    return MachineError(
        f"disk full while {doing}: {directory} has {_free(directory) >> 20} MB free. Make room there, or set "
        "LAKEBRANCH_HOME (or lakebranch_home) to a directory on a larger disk."
    )


@contextlib.contextmanager
def translated(directory: Path, doing: str, kind: type[LakebranchError] = BranchError) -> Iterator[None]:
    """Turn an OSError into MachineError (disk full) or ``kind`` (anything else), saying what was being done."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(directory, doing) from error
        raise kind(f"{doing} failed: {error.strerror} ({error.filename or directory}).") from error


def _free(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def filesystem(directory: Path) -> str:
    """The type of the file system that holds ``directory``, such as ``ext4``; ``unknown`` where nobody says."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return "unknown"
    found = os.fsencode(directory.resolve())
    kinds = {point: kind for point, kind in map(_mount, mounts.read_bytes().splitlines()) if _holds(point, found)}
    return kinds[max(kinds, key=len)].decode() if kinds else "unknown"


def _mount(line: bytes) -> tuple[bytes, bytes]:
    words = line.split()
    return words[4].decode("unicode_escape").encode("latin-1"), words[words.index(b"-") + 1]


def _holds(point: bytes, path: bytes) -> bool:
    return path == point or path.startswith(point.rstrip(b"/") + b"/")
