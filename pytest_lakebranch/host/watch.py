"""Notices the end of processes, however they end: by a descriptor of the process itself, not by a pipe.

A pipe or socket survives in children that the process has forked; a pidfd (Linux) or a kqueue filter (macOS) does not.
"""

from __future__ import annotations

import math
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from pytest_lakebranch.processes import Identity, has_pidfd
from pytest_lakebranch.waiting import Deadline, poll


class Watch:
    """Calls ``on_end`` once for each watched process, from a thread of its own, when the process has ended."""

    def __init__(self, on_end: Callable[[Identity], None]) -> None:
        self._on_end = on_end

    def add(self, process: Identity) -> None:
        """Watch one process. One that is gone already is reported at once; one of another pid namespace never."""
        if not process.is_visible:
            return
        threading.Thread(target=self._follow, args=(process,), name=f"watch-{process.pid}", daemon=True).start()

    def _follow(self, process: Identity) -> None:
        wait_for_end(process)
        self._on_end(process)


def wait_for_end(process: Identity, timeout: float | None = None) -> bool:
    """Wait until the process has ended; False when ``timeout`` seconds passed first."""
    try:
        return _way()(process, timeout)
    except ProcessLookupError:
        return True


def _way() -> Callable[[Identity, float | None], bool]:
    if has_pidfd():
        return _wait_linux
    return _wait_kqueue if hasattr(select, "kqueue") else _wait_looking


def _wait_linux(process: Identity, timeout: float | None) -> bool:
    descriptor = os.pidfd_open(process.pid)
    try:
        if process.is_gone:  # the number belongs to another process by now
            return True
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(descriptor)


def _wait_looking(process: Identity, timeout: float | None) -> bool:
    """Where the system has neither, or a sandbox forbids it: look every 50 ms."""
    deadline = Deadline(math.inf if timeout is None else timeout)
    return poll(lambda: process.is_gone or None, deadline=deadline) is not None


def _wait_kqueue(process: Identity, timeout: float | None) -> bool:
    kq: Any = select  # typeshed declares these names for macOS and BSD only
    queue = kq.kqueue()
    try:
        queue.control([kq.kevent(process.pid, kq.KQ_FILTER_PROC, kq.KQ_EV_ADD, kq.KQ_NOTE_EXIT)], 0)
        return process.is_gone or bool(queue.control(None, 1, timeout))
    finally:
        queue.close()
