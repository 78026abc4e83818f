"""A listener that speaks just enough of PostgreSQL's protocol to refuse every client with a reason.

Messages: PostgreSQL documentation, 53.7 "Message Formats".
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from pathlib import Path

from pytest_lakebranch.state import SOCKET_NAME

ENCRYPTION_REQUESTS = {80877103, 80877104}  # SSLRequest, GSSENCRequest: a client may try either before it starts
LARGEST_STARTUP = 10_000  # MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h
PATIENCE = 5.0
"""Seconds for a client to send its start-up packet."""


class Refusal:
    """Answers every client in ``directory`` with a FATAL error until it is closed; ``reason`` is what it says."""

    def __init__(self, directory: Path, reason: str, hint: str) -> None:
        self.directory = directory
        self.reason = reason
        self.hint = hint
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def open(self) -> None:
        """Listen from now on, in a thread that does not keep the process alive."""
        self._listener.bind(str(self.directory / SOCKET_NAME))
        self._listener.listen(64)
        threading.Thread(target=self._serve, name="lakebranch-refusal", daemon=True).start()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        with contextlib.suppress(OSError):  # wakes the thread out of accept(); on macOS it answers ENOTCONN
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        (self.directory / SOCKET_NAME).unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            with client, contextlib.suppress(OSError):  # a client that went away needs no answer
                client.settimeout(PATIENCE)
                self._refuse(client)

    def _refuse(self, client: socket.socket) -> None:
        while True:
            length, code = struct.unpack("!ii", _exactly(client, 8))
            if not 8 <= length <= LARGEST_STARTUP:
                return
            _exactly(client, length - 8)
            if code not in ENCRYPTION_REQUESTS:
                break
            client.sendall(b"N")
        client.sendall(error_response(self.reason, self.hint))


def error_response(message: str, hint: str) -> bytes:
    """An ErrorResponse with severity FATAL and SQLSTATE 08004 (the server rejected the connection)."""
    fields = {"S": "FATAL", "V": "FATAL", "C": "08004", "M": message, "H": hint}
    body = b"".join(key.encode() + text.encode() + b"\0" for key, text in fields.items()) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data
