"""A place to connect to that leads to a server elsewhere: logs in there in the client's place, then passes bytes on.

What a client says when it starts is answered by the real server, so that its parameters and errors are the server's.
"""

from __future__ import annotations

import contextlib
import hmac
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.postgres import messages
from pytest_lakebranch.postgres.login import (
    CLEARTEXT,
    LoggedIn,
    LoginError,
    LoginRefusedError,
    closed_on_failure,
    log_in,
)
from pytest_lakebranch.postgres.relay import relay
from pytest_lakebranch.state import SOCKET_NAME
from pytest_lakebranch.waiting import Deadline

PATIENCE = 10.0
"""Seconds for a client to send its start-up packet."""
INVALID_PASSWORD = "28P01"  # noqa: S105  (a code)
"""SQLSTATE."""
BACKLOG = 128
STOP_SECONDS = 5.0
PAUSE = 0.05
"""Seconds until the next client is taken when this machine had nothing left for one: files, memory, threads."""


class Upstream(Protocol):
    """The server at the other end."""

    def open(self) -> socket.socket:
        """A connection on which nothing has been said but TLS; raises OSError or LoginError."""

    def log_in(self, asked: Mapping[str, str]) -> LoggedIn:
        """A session for a client that asked for these start-up parameters.

        Raises OSError, LoginError, LoginRefusedError or LakebranchError.
        """


@dataclass(eq=False, slots=True)
class _Line:
    """One client's line; ``pid`` is that of its server process, once there is one."""

    client: socket.socket
    server: socket.socket | None = None
    pid: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def cut(self) -> None:
        """Hang up on both sides; the line's thread closes them."""
        for connection in (self.client, self.server):
            if connection is not None:
                with contextlib.suppress(OSError):  # hung up already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Forwarder:
    """Serves the clients of ``listener``, which it owns, until it is closed; each has a thread.

    With a ``password``, clients must give it: a loopback port is open to every user of the machine.
    """

    def __init__(self, listener: socket.socket, upstream: Upstream, *, name: str, password: str | None = None) -> None:
        self._listener = listener
        self._upstream = upstream
        self._name = name
        self._password = password
        self._lock = threading.Lock()
        self._lines: set[_Line] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._accept, name=f"forward-{name}", daemon=True)

    def open(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def close(self) -> None:
        """Take no more clients and hang up on those there are. Idempotent."""
        self._closed.set()
        with contextlib.suppress(OSError):  # wakes the thread out of accept(); on macOS it answers ENOTCONN
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(STOP_SECONDS)
        self.cut()

    @property
    def pids(self) -> frozenset[int]:
        """The server processes of the present clients."""
        with self._lock:
            return frozenset(line.pid for line in self._lines if line.pid)

    def remain(self, but: frozenset[int] = frozenset()) -> bool:
        """Whether a client is connected, or about to be, whose server process is not one of ``but``."""
        with self._lock:
            return any(line.pid not in but for line in self._lines)

    def cut(self, but: frozenset[int] = frozenset(), *, seconds: float = STOP_SECONDS) -> int:
        """Hang up on every client but those of the server processes ``but``; how many had not hung up themselves.

        Returns when the server was told, too, or after ``seconds``.
        """
        with self._lock:
            lines = [line for line in self._lines if line.pid not in but]
        left = [line for line in lines if not _has_hung_up(line.client)]
        for line in left:
            line.cut()
        deadline = Deadline(seconds)
        for line in lines:
            line.over.wait(deadline.left)
        return len(left)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                self._take(self._listener.accept()[0])
            except (OSError, RuntimeError):  # closed; or no file, or no thread to be had, which passes
                self._closed.wait(PAUSE)

    def _take(self, client: socket.socket) -> None:
        """Serve a client in a thread of its own; raises RuntimeError when none can be started."""
        line = _Line(client)
        with self._lock:
            self._lines.add(line)
        try:
            threading.Thread(target=self._serve, args=(line,), name=f"line-{self._name}", daemon=True).start()
        except RuntimeError:
            client.close()
            self._end(line)
            raise

    def _serve(self, line: _Line) -> None:
        try:
            with line.client, contextlib.suppress(OSError):  # a client that went away needs no answer
                line.client.settimeout(PATIENCE)
                self._begin(line)
        finally:
            self._end(line)

    def _end(self, line: _Line) -> None:
        with self._lock:
            self._lines.discard(line)
        line.over.set()

    def _begin(self, line: _Line) -> None:
        opening = messages.read_opening(line.client)
        if opening is None:
            return
        if opening.code == messages.CANCEL_REQUEST:
            self._cancel(opening.body)
            return
        if not self._is_admitted(line.client):
            return
        with self._told(line.client):
            session = self._upstream.log_in(opening.parameters)
        with session.connection as server:
            line.server, line.pid = server, session.pid
            if self._closed.is_set():
                return
            line.client.sendall(session.welcome)
            relay(line.client, server)

    def _is_admitted(self, client: socket.socket) -> bool:
        if self._password is None:
            return True
        client.sendall(messages.message(b"R", struct.pack("!i", CLEARTEXT)))
        kind, body = messages.read_message(client)
        if kind == b"p" and hmac.compare_digest(body.rstrip(b"\0"), self._password.encode()):
            return True
        client.sendall(messages.error_response(f"{self._name}: wrong password", sqlstate=INVALID_PASSWORD))
        return False

    def _cancel(self, body: bytes) -> None:
        """The server hangs up without an answer when it has done what it can."""
        with contextlib.suppress(OSError, LoginError), self._upstream.open() as server:
            server.sendall(messages.request(messages.CANCEL_REQUEST, body))
            server.settimeout(PATIENCE)
            server.recv(1)

    @contextlib.contextmanager
    def _told(self, client: socket.socket) -> Iterator[None]:
        """Tell the client why there is no session, and end the line."""
        try:
            yield
        except LoginRefusedError as error:
            client.sendall(error.response)
            raise ConnectionAbortedError from error
        except (OSError, LoginError, LakebranchError) as error:
            self._say(client, str(error))
            raise ConnectionAbortedError from error
        except Exception as error:
            self._say(client, f"{type(error).__name__}: {error}")
            raise  # a defect of ours

    def _say(self, client: socket.socket, why: str) -> None:
        """In one line: some drivers show the last one only."""
        said = f"pytest-lakebranch: {self._name} cannot be reached: {' '.join(why.split())}"
        client.sendall(messages.error_response(said, sqlstate=messages.FAILED))


def listen_here() -> socket.socket:
    """A listener on a loopback port that the kernel chooses."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    return listener


def listen_in(directory: Path) -> socket.socket:
    """A listener on a unix socket where libpq looks for it in ``directory``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(directory / SOCKET_NAME))
    listener.listen(BACKLOG)
    return listener


class InDirectory:
    """The server whose socket is in ``directory`` at the time, which trusts whoever may open it. See Upstream."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> socket.socket:
        """See Upstream."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closed_on_failure(connection):
            connection.connect(str(self._directory / SOCKET_NAME))
        return connection

    def log_in(self, asked: Mapping[str, str]) -> LoggedIn:
        """See Upstream. Whom the server asks for a password is refused."""
        return log_in(self.open(), asked, _none)


def _none() -> str:
    raise LoginError("the server asks for a password, and there is none")


def _has_hung_up(client: socket.socket) -> bool:
    """Whether the client closed its end, or said that it will, so that the line ends by itself."""
    try:
        return client.recv(5, socket.MSG_PEEK | socket.MSG_DONTWAIT) in (b"", messages.TERMINATE)
    except BlockingIOError:
        return False
    except OSError:
        return True
