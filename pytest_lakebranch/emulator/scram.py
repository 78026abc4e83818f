"""The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), by what PostgreSQL keeps of a password.

Not by scramp, with which we log in as a client: its server refuses the empty name that libpq sends.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

MECHANISM = "SCRAM-SHA-256"


class ScramError(Exception):
    """The client did not prove that it knows the password, or said something that is no SCRAM."""


@dataclass
class Exchange:
    """One login. ``verifier`` is a value of ``pg_authid.rolpassword``; raises ScramError when it is none of SCRAM."""

    verifier: str
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    _said: str = ""
    _header: str = ""

    def __post_init__(self) -> None:
        try:
            mechanism, parameters, keys = self.verifier.split("$")
            self._iterations, self._salt = parameters.split(":")
            self._stored, self._server = (base64.b64decode(key) for key in keys.split(":"))
        except (ValueError, binascii.Error):
            raise ScramError("the role's password is not stored for SCRAM") from None
        if mechanism != MECHANISM:
            raise ScramError(f"the role's password is stored for {mechanism}")

    def first(self, message: bytes) -> bytes:
        """What to answer to the client's first message."""
        header, _, bare = message.decode(errors="replace").partition(",,")
        fields = _fields(bare)
        if header.split(",")[0] not in ("n", "y") or "r" not in fields:
            raise ScramError("channel binding is not offered" if header.startswith("p") else "malformed message")
        self._header = f"{header},,"
        self.nonce = fields["r"] + self.nonce
        answer = f"r={self.nonce},s={self._salt},i={self._iterations}"
        self._said = f"{bare},{answer}"
        return answer.encode()

    def final(self, message: bytes) -> bytes:
        """What to answer to the client's last message, if it proves that the client knows the password."""
        without_proof, _, proof = message.decode(errors="replace").rpartition(",p=")
        fields = _fields(without_proof)
        if fields.get("r") != self.nonce or fields.get("c") != base64.b64encode(self._header.encode()).decode():
            raise ScramError("malformed message")
        said = f"{self._said},{without_proof}".encode()
        signature = hmac.digest(self._stored, said, "sha256")
        key = bytes(one ^ other for one, other in zip(signature, _decoded(proof), strict=False))
        if not hmac.compare_digest(hashlib.sha256(key).digest(), self._stored):
            raise ScramError("wrong password")
        return b"v=" + base64.b64encode(hmac.digest(self._server, said, "sha256"))


def _fields(message: str) -> dict[str, str]:
    return {part[:1]: part[2:] for part in message.split(",")}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        raise ScramError("malformed message") from None
