"""The processes of one server: which of its children serve clients, and that none outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.processes import LINUX, has_pidfd, stat_fields


def child_pids(pid: int) -> set[int]:
    """The children of a postmaster, which has one thread; zombies included. Empty where /proc does not tell."""
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def open_handles(pids: Iterable[int]) -> dict[int, int]:
    """A pidfd for each process that still exists."""
    handles: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles[pid] = os.pidfd_open(pid)
    return handles


def await_end(handles: dict[int, int], seconds: float) -> None:
    """Wait until the processes have ended, at most ``seconds``; close and drop the handles of those that did."""
    poller = select.poll()
    by_handle = {handle: pid for pid, handle in handles.items()}
    for handle in by_handle:
        poller.register(handle, select.POLLIN)
    from pytest_lakebranch.waiting import Deadline

    deadline = Deadline(seconds)
    while handles:
        ended = poller.poll(deadline.left * 1000)
        for handle, _ in ended:
            poller.unregister(handle)
            os.close(handle)
            del handles[by_handle[handle]]
        if not ended:
            return


def close_handles(handles: dict[int, int]) -> None:
    """Close what :func:`open_handles` opened."""
    for handle in handles.values():
        os.close(handle)
    handles.clear()


@dataclass(slots=True)
class Group:
    """The children that a postmaster had when it was told to stop: each backend is in a session of its own."""

    handles: dict[int, int]

    @classmethod
    def of(cls, pid: int, data: Path, *, orphans: bool = False) -> Group:
        """The present children of ``pid``; with ``orphans`` also every process that works in ``data``."""
        if not (LINUX and has_pidfd()):
            return cls({})
        return cls(open_handles(child_pids(pid) | (_working_in(data) if orphans else set())))

    def end(self) -> int:
        """After the postmaster's end: kill who is still there, wait, and return how many that were."""
        await_end(self.handles, 0.0)
        left = len(self.handles)
        for handle in self.handles.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        await_end(self.handles, 5.0)
        close_handles(self.handles)
        return left


def _working_in(data: Path) -> set[int]:
    """Processes whose working directory is ``data``: the orphans of a postmaster that was killed."""
    found = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{entry.name}/cwd").readlink() == data:
                    found.add(int(entry.name))
    return found
