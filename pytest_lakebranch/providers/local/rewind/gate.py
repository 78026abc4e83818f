"""The gate: while it is closed, a server has no client, and gets none."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from pytest_lakebranch.processes import stat_fields
from pytest_lakebranch.providers.local.clients import Clients
from pytest_lakebranch.providers.local.processes import child_pids
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.waiting import Deadline, poll

STOP = signal.SIGTSTP
"""A stop that ends when we die (launch.py), so that a server dies with us also while the gate is closed: the system
sends SIGCONT to a stopped process group whose last parent in its session is gone (kill_orphaned_pgrp, exit.c), and lets
no stop begin in such a group but that of SIGSTOP (get_signal, signal.c).
"""
STOP_SECONDS = 2.0
EXIT_CODE = 49
"""Of /proc/PID/stat, counted from the state letter: how a zombie ended, as wait(2) says it (proc(5), field 52)."""
GOOD_ENDS = frozenset({"0", "256"})
"""Exit statuses 0 and 1: anything else is a crash to a postmaster (CleanupBackend, postmaster.c)."""


@contextlib.contextmanager
def closed(server: Server, clients: Clients) -> Iterator[None]:
    """Stop the postmaster and end its clients, those included that it has just begun to start.

    ``pg_stat_activity`` does not show a process that has just been forked; only a stopped postmaster forks none.
    Whatever happens inside, the postmaster goes on afterwards. Raises UnprovenError and BranchError, also when one of
    the server's processes died meanwhile: the postmaster will learn of it only afterwards.
    """
    try:
        _stop(server.pid)
        clients.end(queued=False)
        if clients.strangers:
            raise UnprovenError("an extension's background process is running")
        yield
        _check_nobody_died(server)
    finally:
        server.process.send_signal(signal.SIGCONT)


def _stop(pid: int) -> None:
    os.kill(pid, STOP)
    # Asked of the system as its parent: looking again and again would keep the processor from the one that is to stop.
    what = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
    seen = poll(lambda: os.waitid(os.P_PID, pid, what), deadline=Deadline(STOP_SECONDS), every=0.00005)
    if seen is None:
        raise UnprovenError("the postmaster could not be stopped")
    if seen.si_code != os.CLD_STOPPED:
        raise UnprovenError("server died")


def _check_nobody_died(server: Server) -> None:
    """Raise UnprovenError when the postmaster has ended, or one of the server's processes has crashed."""
    children = map(stat_fields, child_pids(server.pid))
    crashed = any(fields and fields[0] in "ZX" and fields[EXIT_CODE] not in GOOD_ENDS for fields in children)
    if crashed or not server.is_alive:
        raise UnprovenError("server died while its branch was put back")
