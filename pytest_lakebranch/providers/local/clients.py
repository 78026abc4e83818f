"""The server processes that serve clients: found, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass, field

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.processes import LINUX, has_pidfd, read_proc
from pytest_lakebranch.providers.local.processes import (
    Footprint,
    await_end,
    child_pids,
    close_handles,
    footprint,
    is_awake,
    is_child,
    is_running,
    open_handles,
)
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.state import SOCKET_NAME
from pytest_lakebranch.waiting import Deadline, poll

AUXILIARY = frozenset({"checkpointer", "background writer", "walwriter", "walsummarizer", "archiver"})
"""Processes that write nothing of their own to databases (backend_type of pg_stat_activity)."""
CLIENT_KINDS = frozenset({"client backend", "walsender", "parallel worker"})
GRACE_SECONDS = 0.02
"""How long a process whose client has gone may take to notice."""
END_SECONDS = 10.0
REST_SECONDS = 5.0
"""How long a postmaster may take to see to what has happened; one that was stopped never does."""
QUEUES = 3
"""How often clients that wait to be accepted are waited for: who connects in a loop would do so for ever."""
QUEUE_SECONDS = 0.2
KINDS = "select pid, backend_type from pg_stat_get_activity(null) where pid = any(%s)"
ALL = "select pid from pg_stat_get_activity(null) where backend_type = any(%s) and pid <> pg_backend_pid()"
"""Not the view pg_stat_activity: it reads catalogs that a client may have locked."""
TERMINATE = "select count(pg_terminate_backend(pid)) from unnest(%s::int[]) pid"


@dataclass(slots=True)
class Clients:
    """The clients of one server. ``_others`` are its processes that serve none, with what they are, in the words of
    pg_stat_activity; ``_residents`` those of them that were there before the first client.
    """

    server: Server
    _others: dict[int, str] = field(default_factory=dict)
    _residents: frozenset[int] = frozenset()
    _unreaped: bool = False
    """Whether a process was seen that had ended, and that the postmaster had not yet waited for."""

    def await_none(self, seconds: float) -> None:
        """Wait until sessions of our own have ended. What runs then belongs to the server: nobody else has come yet."""
        self.remain(seconds)
        self._residents = frozenset(self._others)

    @property
    def strangers(self) -> bool:
        """Whether a process that serves no client was started by one, as extensions do: it may write at any time."""
        kinds = {kind for pid, kind in self._others.items() if pid not in self._residents}
        return not kinds <= AUXILIARY

    def present(self) -> set[int]:
        """Processes that serve a client other than us, or are about to: the server's statistics do not show a process
        that has just been forked, the list of the postmaster's children does.
        """
        if not LINUX:
            return {row[0] for row in self.server.query(ALL, list(CLIENT_KINDS))}
        running = self._unfamiliar()
        return self._serving(running) if running else running

    def _unfamiliar(self) -> set[int]:
        """Running processes that are neither known to serve no client, nor ours."""
        pids = child_pids(self.server.pid)
        if not self._others.keys() <= pids:  # one has ended, and another may get its number
            self._others = {pid: kind for pid, kind in self._others.items() if pid in pids}
        unknown = pids - self._others.keys() - {self.server.control.info.backend_pid}
        running = {pid for pid in unknown if is_running(pid)}
        self._unreaped = running != unknown
        return running

    def remain(self, seconds: float = GRACE_SECONDS) -> bool:
        """Whether a process serves a client after a grace: one that the server has just started for itself is not
        known as such at once.
        """
        return poll(lambda: None if self.present() else True, deadline=Deadline(seconds)) is None

    def await_rest(self) -> bool:
        """Whether the postmaster has waited for all that have ended, and sleeps, at the latest after some seconds.

        One that has not yet seen to a crash lets the other processes answer as if there had been none. Looks once more
        at its children only if the last look saw one that had ended.
        """
        return not LINUX or poll(self._is_at_rest, deadline=Deadline(REST_SECONDS), every=0.00005) is not None

    def await_rest_after(self, pid: int) -> bool:
        """As :meth:`await_rest`, once a process of the server's that is ending has ended: its connection is closed
        before the postmaster can know of its end, and whether that was a crash.
        """
        if LINUX:
            poll(lambda: None if is_running(pid) else True, deadline=Deadline(REST_SECONDS))
            self._unfamiliar()
        return self.await_rest()

    def _is_at_rest(self) -> bool | None:
        if not self.server.is_alive:
            return True
        if self._unreaped:
            self._unfamiliar()
        return None if self._unreaped or is_awake(self.server.pid) else True

    def footprint(self) -> Footprint | None:
        """What changes whenever the server starts a process: equal ones prove that nobody has written in between.

        None where this machine does not tell, the server is dead, or has processes that write by themselves.
        """
        control = self.server.connection
        if not LINUX or control is None or control.closed or not AUXILIARY.issuperset(self._others.values()):
            return None
        return footprint(self.server.pid, known={*self._others, control.info.backend_pid})

    def _serving(self, pids: set[int]) -> set[int]:
        kinds: dict[int, str] = dict(self.server.query(KINDS, list(pids)))
        self._others |= {pid: kind for pid, kind in kinds.items() if kind not in CLIENT_KINDS}
        return pids - self._others.keys()

    def end(self, but: frozenset[int] = frozenset(), *, queued: bool = True) -> int:
        """End all of them but ``but`` and wait until they are gone; how many did not go by themselves in time.

        With ``queued`` also those who wait for the postmaster to accept them.

        Raises BranchError when some are still there, or come anew, after ten seconds.
        """
        if not (LINUX and has_pidfd()):
            return self._end_by_query(but)
        ended: set[int] = set()
        deadline = Deadline(END_SECONDS)
        queues = 0
        while (pids := self._unfamiliar() - but) or (queued and queues < QUEUES and self._await_queue()):
            if deadline.passed:
                raise self._stubborn(pids)
            ended |= self._end_these(pids)
            queues += not pids
        return len(ended)

    def _await_queue(self) -> bool:
        """Whether clients had connected whom the postmaster had not yet seen; if so, wait until it has.

        They would be served when everybody thinks that the lease is over. A stopped postmaster sees nobody.
        """
        if not self._queue():
            return False
        poll(lambda: None if self._queue() else True, deadline=Deadline(QUEUE_SECONDS), every=0.0002)
        return True

    def _queue(self) -> bool:
        """Whether a connection to our socket waits to be accepted: it has no inode yet (unix_seq_show, af_unix.c)."""
        return b" 0 " + os.fsencode(f"{self.server.sockets}/{SOCKET_NAME}\n") in read_proc("/proc/net/unix")

    def _end_these(self, pids: set[int]) -> set[int]:
        handles = open_handles(pids, lambda pid: is_child(pid, self.server.pid))
        try:
            await_end(handles, GRACE_SECONDS)
            if not handles:
                return set()
            left = set(handles) & self._serving(set(handles))
            close_handles({pid: handles.pop(pid) for pid in set(handles) - left})  # they stay
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handles[pid], signal.SIGTERM)
            await_end(handles, 1.0)
            return left
        finally:
            close_handles(handles)

    def _end_by_query(self, but: frozenset[int]) -> int:
        poll(lambda: None if self.present() - but else True, deadline=Deadline(GRACE_SECONDS))
        ended = self.present() - but
        if ended:
            self.server.query(TERMINATE, list(ended))
        if poll(lambda: None if self.present() - but else True, deadline=Deadline(END_SECONDS)) is None:
            raise self._stubborn(self.present())
        return len(ended)

    def _stubborn(self, pids: set[int]) -> BranchError:
        return BranchError(
            f"{self.server.name}: {len(pids)} client connections could not be ended in {END_SECONDS:.0f} s "
            f"(server processes {', '.join(map(str, sorted(pids)))}); something may be reconnecting in a loop."
        )
