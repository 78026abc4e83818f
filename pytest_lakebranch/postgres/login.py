"""Logging in at a PostgreSQL server in somebody's place: TLS, a password in clear or by SCRAM, and what comes after.

Source: PostgreSQL documentation, 53.2.1 "Start-Up", 53.3 "SASL Authentication".
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_lakebranch.postgres import messages

OK, CLEARTEXT, SASL, SASL_CONTINUE, SASL_FINAL = 0, 3, 10, 11, 12
IGNORED = "-"
"""The name in SCRAM: PostgreSQL goes by that of the start-up packet."""
Password = Callable[[], str]


class LoginRefusedError(Exception):
    """The server refused; ``response`` is its ErrorResponse, whole."""

    def __init__(self, body: bytes) -> None:
        fields = messages.error_fields(body)
        super().__init__(fields.get("M", "the server gave no reason"))
        self.sqlstate = fields.get("C", "")
        self.response = messages.message(b"E", body)


class LoginError(Exception):
    """The server cannot be logged in to: it speaks no TLS, or asks for what we do not have."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A session that waits for its first query. ``welcome`` is what the server said, from AuthenticationOk on."""

    connection: socket.socket
    welcome: bytes
    pid: int


@contextmanager
def closed_on_failure(connection: socket.socket) -> Iterator[None]:
    """Close the connection when the block raises."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def encrypted(connection: socket.socket, context: ssl.SSLContext, name: str, *, may_be_clear: bool) -> socket.socket:
    """The connection under TLS, ``name`` sent and checked. Raises LoginError or OSError; then it is closed.

    ``may_be_clear``: a server without TLS is accepted (on this machine nobody else can listen in).
    """
    with closed_on_failure(connection):
        return _encrypted(connection, context, name, may_be_clear=may_be_clear)


def _encrypted(connection: socket.socket, context: ssl.SSLContext, name: str, *, may_be_clear: bool) -> socket.socket:
    connection.sendall(messages.request(messages.SSL_REQUEST))
    answer = connection.recv(1)
    if answer == b"S":
        return context.wrap_socket(connection, server_hostname=name)
    if answer == b"N" and may_be_clear:
        return connection
    raise LoginError(f"{name} offers no TLS (it answered {answer!r}): the credential was not sent")


def log_in(connection: socket.socket, parameters: Mapping[str, str], password: Password) -> LoggedIn:
    """Start a session with ``parameters``; the password is fetched when it is asked for.

    Raises LoginRefusedError, LoginError, OSError; then the connection is closed.
    """
    with closed_on_failure(connection):
        return _log_in(connection, parameters, password)


def _log_in(connection: socket.socket, parameters: Mapping[str, str], password: Password) -> LoggedIn:
    connection.sendall(messages.start_up(parameters))
    while True:
        kind, body = messages.read_message(connection)
        if kind == b"E":
            raise LoginRefusedError(body)
        if kind != b"R":
            continue  # NoticeResponse or NegotiateProtocolVersion
        code = struct.unpack("!i", body[:4])[0]
        if code == OK:
            return _welcomed(connection, messages.message(kind, body))
        _answer(connection, code, body[4:], password)


def _answer(connection: socket.socket, code: int, body: bytes, password: Password) -> None:
    if code == CLEARTEXT:
        connection.sendall(messages.message(b"p", password().encode() + b"\0"))
    elif code == SASL:
        _scram(connection, [word.decode() for word in body.split(b"\0") if word], password)
    else:
        raise LoginError(f"the server asks for an authentication that is not supported (code {code})")


def _scram(connection: socket.socket, offered: list[str], password: Password) -> None:
    """SCRAM-SHA-256; with channel binding where the server offers it."""
    from scramp import ScramClient, ScramException  # type: ignore[import-untyped]

    binding = ("tls-server-end-point", connection) if isinstance(connection, ssl.SSLSocket) else None
    try:
        client: Any = ScramClient(offered, IGNORED, password(), channel_binding=binding)
        first = client.get_client_first().encode()
        name = client.mechanism_name.encode()
        connection.sendall(messages.message(b"p", name + b"\0" + struct.pack("!i", len(first)) + first))
        client.set_server_first(_sasl(connection, SASL_CONTINUE))
        connection.sendall(messages.message(b"p", client.get_client_final().encode()))
        client.set_server_final(_sasl(connection, SASL_FINAL))
    except ScramException as error:
        raise LoginError(f"SCRAM failed: {error}") from error


def _sasl(connection: socket.socket, expected: int) -> str:
    kind, body = messages.read_message(connection)
    if kind == b"E":
        raise LoginRefusedError(body)
    if kind != b"R" or struct.unpack("!i", body[:4])[0] != expected:
        raise LoginError(f"the server broke off SCRAM with a message of type {kind!r}")
    return body[4:].decode()


def _welcomed(connection: socket.socket, welcome: bytes) -> LoggedIn:
    pid = 0
    while True:
        kind, body = messages.read_message(connection)
        if kind == b"E":
            raise LoginRefusedError(body)
        welcome += messages.message(kind, body)
        if kind == b"K":
            pid = struct.unpack("!i", body[:4])[0]
        if kind == b"Z":
            return LoggedIn(connection, welcome, pid)
