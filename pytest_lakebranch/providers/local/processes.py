"""The processes of one server: which of its children serve clients, and that none outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.processes import LINUX, has_pidfd, is_server_in, read_proc, servers_in, stat_fields


def child_pids(pid: int) -> set[int]:
    """The children of a postmaster, which has one thread; zombies included. Empty where /proc does not tell."""
    try:
        return set(map(int, read_proc(f"/proc/{pid}/task/{pid}/children").split()))
    except (FileNotFoundError, ProcessLookupError):
        return set()


def is_child(pid: int, parent: int) -> bool:
    """Whether the process that has ``pid`` now is a child of ``parent``; a zombie counts."""
    return stat_fields(pid)[PARENT : PARENT + 1] == [str(parent)]


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    fields = stat_fields(pid)
    return bool(fields) and fields[0] not in "ZX"


def is_awake(pid: int) -> bool:
    """Whether a process lives and does not sleep: it has work, a signal to see to, or is stopped."""
    return stat_fields(pid)[:1] not in (["S"], ["Z"], ["X"], [])


Footprint = tuple[int, frozenset[int]]
"""Page faults of all children that have ended; the children that live."""
PARENT, OWN_FAULTS, WAITED_FAULTS = 1, 7, 8
"""Of /proc/PID/stat, counted from the state letter: the parent; minor faults of a process, and of its children that it
has waited for (proc(5), fields 4, 10 and 11)."""


def footprint(pid: int, known: set[int]) -> Footprint | None:
    """What changes whenever a process starts another one; None when it is dead, or has waited for a ``known`` child.

    Any process has faults, at the latest when it first writes to its stack after fork(2). A child that has ended counts
    the same before it is waited for (in /proc as a zombie) and afterwards.
    """
    before, children, ended, living = stat_fields(pid), child_pids(pid), 0, set(known)
    for child in children - known:
        fields = stat_fields(child)
        if fields and fields[0] in "ZX":
            ended += int(fields[OWN_FAULTS]) + int(fields[WAITED_FAULTS])
        else:
            living.add(child)
    after = stat_fields(pid)
    if not after or after[0] in "ZX" or not known <= children or before[WAITED_FAULTS] != after[WAITED_FAULTS]:
        return None  # dead, or it has just waited for a child: which may have been counted twice, or not at all
    return int(after[WAITED_FAULTS]) + ended, frozenset(living)


def open_handles(pids: Iterable[int], still: Callable[[int], bool]) -> dict[int, int]:
    """A pidfd for each process that exists, and of which ``still`` says that it is one of those that were found: since
    then its number may have passed to a stranger.
    """
    handles: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            if still(pid):
                handles[pid] = handle
            else:
                os.close(handle)
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
    """The children that a postmaster had when it was told to stop: each backend is in a session of its own. They are
    held by pidfds until the end of a ``with`` block.
    """

    handles: dict[int, int]

    @classmethod
    def of(cls, pid: int | None, data: Path) -> Group:
        """The present children of the postmaster ``pid``. None says that it has ended and was waited for, so that its
        number may be a stranger's: then those of its processes that still work in ``data``.
        """
        if not (LINUX and has_pidfd()):
            return cls({})
        found = servers_in(data) if pid is None else child_pids(pid)
        return cls(open_handles(found, lambda child: _is_of(pid, data, child)))

    def end(self) -> int:
        """After the postmaster's end: kill who is still there, wait, and return how many that were."""
        await_end(self.handles, 0.0)
        left = len(self.handles)
        for handle in self.handles.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        await_end(self.handles, 5.0)
        return left

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *raised: object) -> None:
        close_handles(self.handles)


def _is_of(pid: int | None, data: Path, child: int) -> bool:
    """A postmaster that has just died has left its children to another parent."""
    return (pid is not None and is_child(child, pid)) or is_server_in(child, data)
