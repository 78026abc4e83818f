"""System V shared memory of servers that were killed: the system keeps it until somebody removes it.

Where servers have an IPC namespace of their own, it goes with that.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from pytest_lakebranch.servant import become_servant, servant, works

IPC_RMID = 0
TABLE = Path("/proc/sysvipc/shm")
SHARED_MEMORY_LINE = 6
"""Of postmaster.pid, from 0: key and number (LOCK_FILE_LINE_SHMEM_KEY, pidfile.h)."""


def remove_segment(data: Path) -> str:
    """Remove the segment of a server that ended without doing so, as its data directory names it; why it is still
    there, or nothing.

    Only one that nobody is attached to, and that this very server made.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):  # there is none, or it is gone
        lines = (data / "postmaster.pid").read_text().splitlines()
        key, number = lines[SHARED_MEMORY_LINE].split()
        maker = lines[0].strip()
        if _is_left(key, number, maker=maker) and not _remove(number) and _is_left(key, number, maker=maker):
            return f"it could not be removed: `ipcrm -m {number}`"
    return ""


def _remove(number: str) -> bool:
    """In a container root has no right to what the servant has made: the servant has."""
    if ctypes.CDLL(None).shmctl(int(number), IPC_RMID, None) == 0:
        return True
    return servant() is not None and works(become_servant(), "ipcrm", "-m", number)


def _is_left(key: str, number: str, *, maker: str) -> bool:
    """Columns: key, shmid, perms, size, cpid, lpid, nattch, … (proc(5))."""
    rows = (line.split() for line in TABLE.read_text().splitlines()[1:])
    return any(row[:2] == [key, number] and row[4] == maker and row[6] == "0" for row in rows)
