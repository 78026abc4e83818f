"""What a PostgreSQL client says before it is logged in, and what it is answered (PostgreSQL documentation, 54.7)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping

PROTOCOL_3 = 3
SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102
LARGEST_STARTUP = 10_000  # MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h
LARGEST_PASSWORD = 100_000
AUTH_OK, AUTH_CLEARTEXT, AUTH_SASL, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL = 0, 3, 10, 11, 12


class RefusedError(Exception):
    """A login that is refused: SQLSTATE and message, as the client sees them."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message

    def packet(self) -> bytes:
        """An ErrorResponse with severity FATAL."""
        fields = {"S": "FATAL", "V": "FATAL", "C": self.sqlstate, "M": self.message}
        body = b"".join(key.encode() + text.encode() + b"\0" for key, text in fields.items()) + b"\0"
        return b"E" + struct.pack("!i", len(body) + 4) + body


async def first_packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The code and the rest of a packet without type byte. Raises RefusedError or IncompleteReadError."""
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    if not 8 <= length <= LARGEST_STARTUP:
        raise RefusedError("08P01", "invalid length of startup packet")
    return code, await reader.readexactly(length - 8)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """What the client answers to a request for authentication. Raises RefusedError or IncompleteReadError."""
    kind, length = struct.unpack("!ci", await reader.readexactly(5))
    if kind != b"p" or not 4 <= length <= LARGEST_PASSWORD:
        raise RefusedError("08P01", "expected password response")
    return await reader.readexactly(length - 4)


def authentication(kind: int, more: bytes = b"") -> bytes:
    """A request for authentication, or its success."""
    return b"R" + struct.pack("!ii", 8 + len(more), kind) + more


def initial_response(body: bytes) -> tuple[str, bytes]:
    """The mechanism and the first message of a SASLInitialResponse. Raises RefusedError."""
    mechanism, _, rest = body.partition(b"\0")
    if len(rest) < 4:
        raise RefusedError("08P01", "malformed SASL response")
    return mechanism.decode(errors="replace"), rest[4:]


def parameters(body: bytes) -> dict[str, str]:
    """The parameters of a StartupMessage. Raises RefusedError."""
    words = body.split(b"\0")
    if len(words) < 3 or words[-2:] != [b"", b""]:
        raise RefusedError("08P01", "invalid startup packet layout: expected terminator as last byte")
    texts = [word.decode(errors="replace") for word in words[:-2]]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def startup(version: int, given: Mapping[str, str]) -> bytes:
    """A StartupMessage."""
    body = b"".join(word.encode() + b"\0" for pair in given.items() for word in pair) + b"\0"
    return struct.pack("!ii", len(body) + 8, version) + body


def cancel(body: bytes) -> bytes:
    """A CancelRequest with this key."""
    return struct.pack("!ii", len(body) + 8, CANCEL_REQUEST) + body
