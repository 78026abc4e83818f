"""Passing bytes between two connections, in both directions, as quickly as one thread can."""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from collections.abc import Callable

CHUNK = 1 << 18
MOST_HELD = 1 << 20
"""Bytes held for a side that does not read, from which the other side is not read either."""
NEAR = 0.0002
"""Seconds within which an answer came that is worth waiting for awake: to be woken may take as long again."""
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Side:
    """One of the two connections, and what is to be written to it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.number = connection.fileno()
        self.held = b""
        self.tls = connection if isinstance(connection, ssl.SSLSocket) else None
        self._buffer = memoryview(bytearray(CHUNK))
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def pass_on(self, other: _Side) -> bool:
        """Write what has come to the other side; False at the end. All that TLS has decrypted is taken.

        Read into a place that is there: one of this size would be fetched from the system, and returned, each time.
        """
        try:
            while count := self.connection.recv_into(self._buffer):
                other.write(self._buffer[:count])
                if self.tls is None or not self.tls.pending():
                    return True
        except NOT_NOW:
            return True
        return False

    def write(self, data: memoryview | bytes) -> None:
        """Write what goes now, and hold the rest."""
        if self.held:
            data = self.held + data
        try:
            sent = self.connection.send(data)
        except NOT_NOW:
            sent = 0
        self.held = b"" if sent == len(data) else bytes(data[sent:])


class _Waiting:
    """Waits for what a poller tells: awake for a moment where the last wait was short, else asleep.

    A server that is near answers sooner than a sleeper can be woken; one that is far, and whoever is idle, costs
    nothing. Who waits awake lets every other process go first.
    """

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._near = False
        self._let_others: Callable[[], None] = getattr(os, "sched_yield", lambda: None)

    def next(self) -> list[tuple[int, int]]:
        """What is ready next."""
        began = time.perf_counter()
        ready = self._poller.poll(0) if self._near else []
        while self._near and not ready and time.perf_counter() - began < NEAR:
            self._let_others()
            ready = self._poller.poll(0)
        ready = ready or self._poller.poll()
        self._near = time.perf_counter() - began < NEAR
        return ready


def relay(client: socket.socket, server: socket.socket) -> None:
    """Pass on what each side says until one of them hangs up; the other has then been told all. Closes neither.

    A connection that fails counts as one that hangs up.
    """
    one, other = _Side(client), _Side(server)
    poller = select.poll()
    wanted = {one.number: select.POLLIN, other.number: select.POLLIN}
    pairs = {one.number: (one, other), other.number: (other, one)}
    for number, events in wanted.items():
        poller.register(number, events)
    waiting = _Waiting(poller)
    try:
        while True:
            for number, events in waiting.next():
                mine, theirs = pairs[number]
                if events & select.POLLOUT:
                    mine.write(b"")
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and not mine.pass_on(theirs):
                    _tell_the_rest(theirs)
                    return
            _attend(poller, wanted, one, other)
    except OSError:
        return


def _attend(poller: select.poll, wanted: dict[int, int], one: _Side, other: _Side) -> None:
    """Wait for room where something is held, and for data where not too much is held for the other side."""
    for mine, theirs in ((one, other), (other, one)):
        events = (select.POLLOUT if mine.held else 0) | (select.POLLIN if len(theirs.held) < MOST_HELD else 0)
        if events != wanted[mine.number]:
            wanted[mine.number] = events
            poller.modify(mine.number, events)


def _tell_the_rest(side: _Side) -> None:
    if side.held:
        side.connection.settimeout(5.0)
        side.connection.sendall(side.held)
