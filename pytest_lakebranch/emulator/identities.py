"""Who may do what: identities, their API tokens, and the credentials with which they log in to databases."""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import dataclass, field

from pytest_lakebranch.emulator.clock import WorldTime
from pytest_lakebranch.emulator.refusals import ApiError, permission_denied, unauthenticated

ACCESS_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A user or a service principal. ``manages`` is the permission CAN MANAGE, else it has CAN USE.

    ``token`` is a personal access token; a service principal has ``secret`` instead, and its name is the client id.
    """

    name: str
    manages: bool = True
    token: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)

    @property
    def is_service_principal(self) -> bool:
        """Whether this is a machine."""
        return self.secret is not None


@dataclass(frozen=True, slots=True)
class Token:
    """A token that expires: for the API, or for logging in to databases (then minted for ``endpoint``)."""

    identity: Identity
    expires: float
    endpoint: str | None = None


class Tokens:
    """All identities and tokens."""

    def __init__(self, time: WorldTime, identities: tuple[Identity, ...]) -> None:
        self.identities = identities
        self._time = time
        self._access: dict[str, Token] = {}
        self._database: dict[str, Token] = {}
        self._lock = threading.Lock()

    def authenticated(self, header: str | None) -> Identity:
        """Whose the token in an ``Authorization`` header is; raises ApiError."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise unauthenticated("Credential was not sent or was of an unsupported type for this API.")
        for identity in self.identities:
            if identity.token is not None and hmac.compare_digest(identity.token.encode(), token.encode()):
                return identity
        return self._valid(self._access, token).identity

    def _valid(self, tokens: dict[str, Token], token: str) -> Token:
        with self._lock:
            found = tokens.get(token)
        if found is None:
            raise unauthenticated("Invalid access token.")
        if found.expires <= self._time.now():
            raise unauthenticated("Token is expired.")
        return found

    def log_in(self, client: str, secret: str) -> str:
        """An access token for a service principal; raises ApiError with OAuth's words."""
        for identity in self.identities:
            known = identity.secret
            if known is not None and identity.name == client and hmac.compare_digest(known.encode(), secret.encode()):
                return self._mint(self._access, "eyJlbXU.", Token(identity, self._time.now() + ACCESS_SECONDS))
        raise ApiError(401, "invalid_client", "Client authentication failed")

    def credential(self, identity: Identity, endpoint: str, expires: float) -> str:
        """A token with which ``identity`` can log in to databases."""
        return self._mint(self._database, "eyJkYi4.", Token(identity, expires, endpoint))

    def _mint(self, tokens: dict[str, Token], prefix: str, token: Token) -> str:
        text = prefix + secrets.token_urlsafe(48)
        now = self._time.now()
        with self._lock:
            for old in [key for key, each in tokens.items() if each.expires < now - ACCESS_SECONDS]:
                del tokens[old]
            tokens[text] = token
        return text

    def login(self, token: str) -> Token:
        """Whose a database password is: a credential, or an access token of the API; raises ApiError."""
        try:
            return self._valid(self._database, token)
        except ApiError:
            return self._valid(self._access, token)


def check_manages(identity: Identity, what: str) -> None:
    """Raise ApiError when ``identity`` may not change things."""
    if not identity.manages:
        raise permission_denied(f"User {identity.name} does not have CAN MANAGE permission on {what}.")
