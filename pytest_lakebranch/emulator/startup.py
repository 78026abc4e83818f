"""What a PostgreSQL client says before it is logged in, read from a stream (PostgreSQL documentation, 53.7)."""

from __future__ import annotations

import asyncio
import struct

from pytest_lakebranch.postgres import messages
from pytest_lakebranch.postgres.messages import LARGEST_STARTUP, Opening

LARGEST_PASSWORD = 100_000
AUTH_CLEARTEXT, AUTH_SASL, AUTH_SASL_CONTINUE, AUTH_SASL_FINAL = 3, 10, 11, 12


class RefusedError(Exception):
    """A login that is refused: SQLSTATE and message, as the client sees them."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message

    def packet(self) -> bytes:
        """An ErrorResponse with severity FATAL."""
        return messages.error_response(self.message, sqlstate=self.sqlstate)


async def opening(reader: asyncio.StreamReader) -> Opening:
    """A packet without type byte. Raises RefusedError or IncompleteReadError."""
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    if not 8 <= length <= LARGEST_STARTUP:
        raise RefusedError("08P01", "invalid length of startup packet")
    return Opening(code, await reader.readexactly(length - 8))


async def answer(reader: asyncio.StreamReader) -> bytes:
    """What the client answers to a request for authentication. Raises RefusedError or IncompleteReadError."""
    kind, length = struct.unpack("!ci", await reader.readexactly(5))
    if kind != b"p" or not 4 <= length <= LARGEST_PASSWORD:
        raise RefusedError("08P01", "expected password response")
    return await reader.readexactly(length - 4)


def authentication(kind: int, more: bytes = b"") -> bytes:
    """A request for authentication."""
    return messages.message(b"R", struct.pack("!i", kind) + more)


def initial_response(body: bytes) -> tuple[str, bytes]:
    """The mechanism and the first message of a SASLInitialResponse. Raises RefusedError."""
    mechanism, _, rest = body.partition(b"\0")
    if len(rest) < 4:
        raise RefusedError("08P01", "malformed SASL response")
    return mechanism.decode(errors="replace"), rest[4:]
