"""A network between tests and an emulator that can be cut and mended: connections to the API and to endpoints."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

Address = tuple[str, int]


class Line:
    """Passes connections that come in at ``listener`` on to ``target``, or to the address that was called there, at
    that port. While it is cut, whoever calls is hung up on.
    """

    def __init__(self, at: Address, target: Address | int) -> None:
        self._listener = socket.create_server(at)
        self._target = target
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.is_cut = False
        self.turned_away = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it is called."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Hang up on everybody, now and until it is mended."""
        with self._lock:
            self.is_cut, gone, self._open = True, self._open, []
        for each in gone:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """All is well again."""
        self.is_cut = False

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._answer(self._listener.accept()[0])

    def _answer(self, client: socket.socket) -> None:
        with self._lock:
            if self.is_cut:
                self.turned_away += 1
                client.close()
                return
            called = client.getsockname()[0]
            at = (called, self._target) if isinstance(self._target, int) else self._target
            server = socket.create_connection(at)
            self._open += [client, server]
        threading.Thread(target=_relay, args=(client, server), daemon=True).start()

    def close(self) -> None:
        """The end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()


def _relay(client: socket.socket, server: socket.socket) -> None:
    with client, server:
        up = threading.Thread(target=_pump, args=(client, server))
        up.start()
        _pump(server, client)
        up.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def line(at: Address, target: Address | int) -> Iterator[Line]:
    """A line until the block ends."""
    made = Line(at, target)
    try:
        yield made
    finally:
        made.close()
