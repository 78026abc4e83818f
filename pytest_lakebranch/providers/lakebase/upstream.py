"""The way to one endpoint: TLS to its host, a fresh credential, and patience while it does not let us in yet."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.postgres.login import (
    LoggedIn,
    LoginError,
    LoginRefusedError,
    closed_on_failure,
    encrypted,
    log_in,
)
from pytest_lakebranch.providers._rest import is_loopback
from pytest_lakebranch.waiting import Clock, Deadline

CONNECT_SECONDS = 15.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
LATER_PATIENCE = 20.0
"""Seconds for a login once the endpoint has let us in before: it may have been suspended meanwhile."""
TOO_MANY = "53300"
NOT_YET = frozenset({"57P03", "28P01", "28000", "08004", "08006", TOO_MANY})
"""SQLSTATEs of refusals that pass: starting up, not known yet, a token that is not accepted (any more), no room for
another active compute.
"""
AT_FIRST = NOT_YET - {TOO_MANY}
"""At a new branch: nobody waits for room there who could give some back."""
UNKNOWN = frozenset({"28P01", "28000"})
"""SQLSTATEs of who is not known, or not believed."""
NO_COMPUTE = (
    "The project lets no more computes be active: run fewer workers, set lakebranch_branches to what it allows, or "
    "delete branches (`lakebranch reap`)."
)
NO_ROLE = "Does role {role!r} exist in the source branch? Who made the project has one."
KEPT_FOR = 3000.0
"""Seconds during which a credential, good for an hour, is used again."""
LIVELINESS = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""Seconds, a number and milliseconds until a server that went silent counts as gone; set where the system has them."""
CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""What TLS says of a server that hangs up; its other errors are about keys and certificates, and stay."""


def trust(host: str, authorities: str) -> ssl.SSLContext:
    """How certificates are checked: by the system's authorities, or those in the file ``authorities``.

    Nobody can listen in on the way to this machine itself: there a certificate is checked only where a file is given.
    """
    context = ssl.create_default_context(cafile=authorities or None)
    if is_loopback(host) and not authorities:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(slots=True)
class Door:
    """See Upstream. Sessions are of the role ``identity``; a client that asks for another one gets its rights.

    ``stands_for`` are roles and databases that are asked for under another name: the application's URL is made before
    anything is known of the project. ``always`` are parameters of every session.
    ``mint`` fetches a credential; ``is_broken`` says that the server crashed, and a branch is not used after that.
    ``passing`` are the SQLSTATEs that are waited out, ``refused`` the one with which the last login was refused,
    ``knocks`` and ``knocked`` how often it was tried, and when for the last time.
    """

    host: str
    port: int
    identity: str
    mint: Callable[[Deadline], str]
    authorities: str = ""
    stands_for: Mapping[str, str] = field(default_factory=dict)
    always: Mapping[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    patience: float = LATER_PATIENCE
    passing: frozenset[str] = NOT_YET
    is_broken: Callable[[], bool] = field(default=lambda: False)
    refused: str = ""
    knocks: int = 0
    knocked: float = 0.0
    _token: str = field(default="", repr=False)
    _until: float = 0.0
    _context: ssl.SSLContext | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open(self) -> socket.socket:
        """See Upstream. A server that goes silent is noticed: its network may drop a connection without a word."""
        context = self._trusted()
        connection = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        with closed_on_failure(connection):
            _look_after(connection)
        return encrypted(connection, context, self.host, may_be_clear=is_loopback(self.host))

    def _trusted(self) -> ssl.SSLContext:
        with self._lock:
            if self._context is None:
                self._context = trust(self.host, self.authorities)
            return self._context

    def log_in(self, asked: Mapping[str, str]) -> LoggedIn:
        """See Upstream. What passes is tried again, each time with a fresh credential."""
        deadline, pause = Deadline(self.patience, self.clock), FIRST_PAUSE
        self.refused, self.knocks = "", 0
        wanted = self._translated(asked)
        self._trusted()  # a file of certificates that cannot be read does not become readable
        while True:
            self.knocks, self.knocked = self.knocks + 1, self.clock.now()
            try:
                return self._unbroken(log_in(self.open(), wanted, lambda: self.credential(deadline)))
            except LoginRefusedError as error:
                self.refused = error.sqlstate
                if error.sqlstate not in self.passing or deadline.left <= pause:
                    raise
                self._forget()
            except OSError as error:  # no name yet, no way, no answer: it is being started, moved or suspended
                if not _passes(error) or deadline.left <= pause:
                    raise
            self.clock.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)

    def _translated(self, asked: Mapping[str, str]) -> dict[str, str]:
        wanted = dict(asked)
        for name in ("user", "database"):
            value = wanted.get(name, wanted.get("user", ""))
            wanted[name] = self.stands_for.get(f"{name} {value}", value)
        if wanted["user"] != self.identity:
            wanted["role"] = wanted["user"]
        return {**wanted, **self.always, "user": self.identity}

    def _unbroken(self, session: LoggedIn) -> LoggedIn:
        with closed_on_failure(session.connection):
            if self.is_broken():
                raise LoginError("its server crashed; the branch is replaced when its lease ends")
        return session

    def credential(self, deadline: Deadline) -> str:
        """The token to log in with; kept in memory while it is good for long, and nowhere else."""
        with self._lock:
            if not self._token or self.clock.now() >= self._until:
                self._token = self.mint(deadline)
                self._until = self.clock.now() + KEPT_FOR
            return self._token

    def _forget(self) -> None:
        with self._lock:
            self._token = ""


def kept_out(door: Door, branch: str, deadline: Deadline, said: str) -> CloudError:
    """The error of a branch that cannot be logged in to, by its own words and by how the login was refused."""
    full = door.refused == TOO_MANY
    hint = NO_ROLE.format(role=door.identity) if door.refused in UNKNOWN else ""
    return CloudError(
        f"branch {branch} lets nobody in after {deadline.seconds - deadline.left:.0f} s: {said}",
        code=TOO_MANY if full else "",
        hint=NO_COMPUTE if full else hint,
    )


def _look_after(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in LIVELINESS.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _passes(error: OSError) -> bool:
    return isinstance(error, CUT_OFF) or not isinstance(error, (ssl.SSLError, FileNotFoundError))
