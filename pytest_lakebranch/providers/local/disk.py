"""What the system says about a disk, and its refusals in words for a person."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

from pytest_lakebranch.errors import BranchError, LakebranchError, MachineError

FULL = (errno.ENOSPC, errno.EDQUOT)
GET_FLAGS, SET_FLAGS, TOP_OF_HIERARCHY = 0x80086601, 0x40086602, 0x00020000
"""FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_TOPDIR_FL (linux/fs.h), on machines with eight-byte longs."""
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


def spread(directory: Path) -> None:
    """Have ext4 put each directory made in ``directory`` into another part of the disk, by its name (chattr +T).

    Making files where many were deleted in the last minutes takes ext4 a millisecond each (recently_deleted(),
    fs/ext4/ialloc.c): a thousand for a branch. In another part of the disk it takes a twentieth. Names must not repeat.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(handle, GET_FLAGS, flags)
        fcntl.ioctl(handle, SET_FLAGS, struct.pack("=q", struct.unpack("=q", flags)[0] | TOP_OF_HIERARCHY))
    except OSError:
        pass  # another file system, which neither knows the flag nor needs it
    finally:
        os.close(handle)


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


def file_time(directory: Path) -> int:
    """The time as the file system of a directory tells it, in nanoseconds."""
    mark = directory / "now"
    mark.touch()
    found = mark.stat().st_mtime_ns
    mark.unlink()
    return found
