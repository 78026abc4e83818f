"""PostgreSQL's messages, as far as one must speak them to refuse, to log in and to pass on.

Source: PostgreSQL documentation, 53.2 "Message Flow" and 53.7 "Message Formats".
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import NamedTuple

PROTOCOL_3_0 = 196608
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
ENCRYPTION_REQUESTS = {SSL_REQUEST, GSS_REQUEST}
"""A client may try either before it starts."""
LARGEST_STARTUP = 10_000  # MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h
TERMINATE = b"X\0\0\0\4"
"""A client's good-bye."""
REJECTED = "08004"
"""SQLSTATE: the server rejected the connection."""
FAILED = "08006"
"""SQLSTATE: connection failure."""


class Opening(NamedTuple):
    """A client's first packet that means something: its code, and what follows it."""

    code: int
    body: bytes

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters of a start-up packet."""
        words = self.body.split(b"\0")
        pairs = zip(words[::2], words[1::2], strict=False)
        return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs if name}


def read_opening(client: socket.socket) -> Opening | None:
    """The client's start-up or cancel packet; encryption is declined. None for what is neither.

    Raises ConnectionResetError when the client hangs up first.
    """
    while True:
        length, code = struct.unpack("!ii", exactly(client, 8))
        if not 8 <= length <= LARGEST_STARTUP:
            return None
        body = exactly(client, length - 8)
        if code not in ENCRYPTION_REQUESTS:
            return Opening(code, body)
        client.sendall(b"N")


def start_up(parameters: Mapping[str, str], protocol: int = PROTOCOL_3_0) -> bytes:
    """A start-up packet."""
    words = "".join(f"{name}\0{value}\0" for name, value in parameters.items()).encode() + b"\0"
    return request(protocol, words)


def request(code: int, body: bytes = b"") -> bytes:
    """A packet as it comes before start-up: a length, a code, no type."""
    return struct.pack("!ii", len(body) + 8, code) + body


def message(kind: bytes, body: bytes) -> bytes:
    """A message: a type, a length, a body."""
    return kind + struct.pack("!i", len(body) + 4) + body


def read_message(connection: socket.socket) -> tuple[bytes, bytes]:
    """The type and body of the next message."""
    head = exactly(connection, 5)
    return head[:1], exactly(connection, struct.unpack("!i", head[1:])[0] - 4)


def error_response(text: str, hint: str = "", *, sqlstate: str = REJECTED) -> bytes:
    """An ErrorResponse with severity FATAL."""
    fields = {"S": "FATAL", "V": "FATAL", "C": sqlstate, "M": text, "H": hint}
    body = b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items() if value) + b"\0"
    return message(b"E", body)


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse by their letters: C is the SQLSTATE, M the message."""
    return {field[:1].decode(): field[1:].decode(errors="replace") for field in body.split(b"\0") if field}


def exactly(connection: socket.socket, count: int) -> bytes:
    """The next ``count`` bytes; raises ConnectionResetError when the other side hangs up first."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise ConnectionResetError("the other side hung up")
        data += more
    return data
