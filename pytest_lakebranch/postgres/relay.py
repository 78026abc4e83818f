"""Passing bytes between two connections, in both directions, as quickly as one thread can."""

from __future__ import annotations

import select
import socket
import ssl

CHUNK = 1 << 18
MOST_HELD = 1 << 20
"""Bytes held for a side that does not read, from which the other side is not read either."""
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Side:
    """One of the two connections, and what is to be written to it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.number = connection.fileno()
        self.held = b""
        self.tls = connection if isinstance(connection, ssl.SSLSocket) else None
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self) -> bytes | None:
        """What has come; empty at the end, None when there is nothing now. All that TLS has decrypted is taken."""
        try:
            data = self.connection.recv(CHUNK)
            while data and self.tls is not None and (pending := self.tls.pending()):
                data += self.tls.recv(pending)
        except NOT_NOW:
            return None
        return data

    def write(self, data: bytes) -> None:
        """Write what goes now, and hold the rest."""
        self.held = self.held + data if self.held else data
        try:
            sent = self.connection.send(self.held)
        except NOT_NOW:
            return
        self.held = self.held[sent:]


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
    try:
        while True:
            for number, events in poller.poll():
                mine, theirs = pairs[number]
                if events & select.POLLOUT:
                    mine.write(b"")
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    data = mine.read()
                    if data == b"":
                        _tell_the_rest(theirs)
                        return
                    if data:
                        theirs.write(data)
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
