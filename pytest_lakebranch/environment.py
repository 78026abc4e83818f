"""The application's URL: constant within a process, set before the application is imported, led to the running test."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from pathlib import Path

from pytest_lakebranch.config import Settings
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import LOOPBACK, WAYS, placeholders
from pytest_lakebranch.postgres.port import Port
from pytest_lakebranch.postgres.refusal import Refusal
from pytest_lakebranch.state import PORT, make_seat, move, owner_is_gone, remove_owned, sockets_root

STRAY = WAYS | {"PGHOSTADDR", "PGOPTIONS", "PGSERVICEFILE"}
"""Variables that libpq adds to a URL which says nothing of them (PostgreSQL documentation, 34.15)."""
OUTSIDE = "pytest-lakebranch: no test with a branch is running"
HINT = (
    "Ask for the fixture lakebranch, or mark the test with @pytest.mark.lakebranch, or set lakebranch_autouse. "
    "While wider fixtures are set up, the URL leads to lakebranch_worker or lakebranch_run if one of them is open."
)


class Seat:
    """One process's place to connect to. Outside of leases a listener refuses, saying why."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = make_seat()
        closed = self._directory / "closed"
        closed.mkdir(mode=0o700)
        self._refusal = Refusal(closed, OUTSIDE, HINT)
        self._refusal.open()
        self._before: dict[str, str | None] = {}
        self._port = Port(self._directory / "db") if settings.listen == "tcp" else None
        self.refuse(OUTSIDE)

    @property
    def endpoint(self) -> Endpoint:
        """Where the application connects, whatever is behind it at the moment."""
        user, database = self._settings.user, self._settings.database
        if self._port is not None:
            return Endpoint(LOOPBACK, self._port.number, user, database)
        return Endpoint(str(self._directory / "db"), PORT, user, database)

    @property
    def places(self) -> tuple[str, ...]:
        """What is in every connection string that leads here or to a branch."""
        return (str(sockets_root()), *((str(self._port.number),) if self._port is not None else ()))

    def cut(self) -> bool:
        """End the connections that were made to our port; False where there is none, and they go past this process."""
        if self._port is None:
            return False
        self._port.cut()
        return True

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Set the variables of ``lakebranch_env``, and take away those that would lead libpq past them."""
        for name in STRAY & environ.keys():
            self._before[name] = environ.pop(name)
        password = "" if self._port is None else self._port.password
        for name, value in self._settings.variables(placeholders(self.endpoint, password)).items():
            self._before.setdefault(name, environ.get(name))
            environ[name] = value

    def lead_to(self, endpoint: Endpoint) -> None:
        """Connections that are made from now on go to ``endpoint``."""
        move(self._directory / "db", Path(endpoint.host))

    def refuse(self, reason: str, hint: str = HINT) -> None:
        """Connections that are tried from now on are refused with ``reason``."""
        self._refusal.reason, self._refusal.hint = reason, hint
        move(self._directory / "db", self._refusal.directory)

    def close(self, environ: MutableMapping[str, str]) -> None:
        """Put the environment back and remove the place."""
        for name, value in self._before.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value
        if self._port is not None:
            self._port.close()
        self._refusal.close()
        remove_owned(self._directory)


def clear_abandoned_seats() -> None:
    """Remove the places of processes that are gone: a worker that crashed could not do it itself."""
    for directory in sockets_root().glob("s*"):
        if owner_is_gone(directory):
            with contextlib.suppress(OSError):  # somebody else may be removing it; the reaper tells what cannot be
                remove_owned(directory)
