"""A listener that speaks just enough of PostgreSQL's protocol to refuse every client with a reason."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from pytest_lakebranch.postgres import messages
from pytest_lakebranch.state import SOCKET_NAME

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
        if messages.read_opening(client) is not None:
            client.sendall(messages.error_response(self.reason, self.hint))
