"""System V shared memory of servers that were killed: the system keeps it until somebody removes it.

Where servers have an IPC namespace of their own, it goes with that.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

IPC_RMID = 0
TABLE = Path("/proc/sysvipc/shm")
SHARED_MEMORY_LINE = 6
"""Of postmaster.pid, from 0: key and number (LOCK_FILE_LINE_SHMEM_KEY, pidfile.h)."""


def remove_segment(data: Path) -> None:
    """Remove the segment of a server that ended without doing so, as its data directory names it.

    Only one that nobody is attached to, and that this very server made.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):  # there is none, or it is gone
        lines = (data / "postmaster.pid").read_text().splitlines()
        key, number = lines[SHARED_MEMORY_LINE].split()
        if _is_left(key, number, maker=lines[0].strip()):
            ctypes.CDLL(None).shmctl(int(number), IPC_RMID, None)


def _is_left(key: str, number: str, *, maker: str) -> bool:
    """Columns: key, shmid, perms, size, cpid, lpid, nattch, … (proc(5))."""
    rows = (line.split() for line in TABLE.read_text().splitlines()[1:])
    return any(row[:2] == [key, number] and row[4] == maker and row[6] == "0" for row in rows)
