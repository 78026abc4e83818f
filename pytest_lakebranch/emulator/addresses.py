"""Loopback addresses for endpoints: one each, since the API names hosts and no ports."""

from __future__ import annotations

import errno
import os
import socket
import threading
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pytest_lakebranch.errors import ConfigError, MachineError
from pytest_lakebranch.state import PORT

FIRST = int(IPv4Address("127.64.0.1"))
ROOM = 1 << 21
TRIES = 200
BACKLOG = 128


@dataclass
class Addresses:
    """Hands out listening sockets on port ``port``: each on a loopback address of its own, from a different beginning
    in each process, so that several emulators get along; or all on the address ``shared``.
    """

    port: int = PORT
    shared: str | None = None
    _next: int = field(default_factory=lambda: os.getpid() * 512 % ROOM)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self) -> tuple[str, socket.socket]:
        """A free address and a socket that listens on it. Raises MachineError."""
        for _ in range(TRIES):
            with self._lock:
                address = str(IPv4Address(FIRST + self._next % ROOM))
                self._next += 1
            try:
                return address, listening(address, self.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise self._failure(address, error) from error
        raise MachineError(
            f"no loopback address has port {self.port} free (tried {TRIES}, the last one {address}): a server that "
            f"listens on all addresses takes it everywhere. Stop it, or choose another port for endpoints with "
            "--endpoint-port, and set PGPORT to it for clients: the API has no port in it."
        )

    def listen_shared(self) -> tuple[str, socket.socket]:
        """The address that all endpoints share, and a socket that listens on it. Raises ConfigError or MachineError."""
        address = self.shared or ""
        if not _is_loopback(address):
            raise ConfigError(f"{address} is no loopback address: the emulator listens on 127.0.0.0/8 only.")
        try:
            return address, listening(address, self.port)
        except OSError as error:
            raise MachineError(
                f"{address}:{self.port} cannot be listened on: {error.strerror}. "
                "Choose another port for endpoints with --endpoint-port, and set PGPORT to it for clients."
            ) from error

    def _failure(self, address: str, error: OSError) -> MachineError:
        return MachineError(
            f"{address}:{self.port} cannot be listened on: {error.strerror}. Where a machine has no loopback address "
            "but 127.0.0.1 (macOS), use --endpoint-address 127.0.0.1: all endpoints share it, and a login is led to "
            "the endpoint for which its credential was minted. Ports below 1024 need --endpoint-port too."
        )


def _is_loopback(address: str) -> bool:
    try:
        return IPv4Address(address).is_loopback
    except ValueError:
        return False


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens there; raises OSError."""
    # asyncio lets small packets go at once only where the protocol is named.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made
