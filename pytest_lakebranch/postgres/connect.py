"""Conninfo strings, URLs and connections; the only place that opens psycopg connections."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_lakebranch.model import Endpoint

if TYPE_CHECKING:
    import psycopg

LOOPBACK = "127.0.0.1"
PINNED_WHEN_SET = {"PGHOSTADDR": "hostaddr", "PGOPTIONS": "options"}
"""Variables that libpq would add to a URL which does not name them (PostgreSQL documentation, 34.15)."""

WAYS = frozenset(
    {
        *("PGSERVICE", "PGREQUIREPEER", "PGREQUIREAUTH", "PGTARGETSESSIONATTRS", "PGLOADBALANCEHOSTS"),
        *("PGSSLMODE", "PGREQUIRESSL", "PGSSLNEGOTIATION", "PGGSSENCMODE", "PGCHANNELBINDING"),
        *("PGMINPROTOCOLVERSION", "PGMAXPROTOCOLVERSION"),
    }
)
"""Variables that say to which servers, and in which way, libpq connects: one that is meant for another server, or that
names an unknown service, would keep it from ours. Not all of them can be overruled in a connection string.
"""
FOREIGN_SECONDS = 15
"""How long a server that is not ours may take to answer."""


def conninfo(endpoint: Endpoint) -> str:
    """A libpq connection string that no ``PG*`` variable and no service file can lead elsewhere.

    An empty value counts as given: libpq fills in only what is absent (conninfo_add_defaults, fe-connect.c).
    """
    pinned = {
        "host": endpoint.host,
        "hostaddr": "",
        "port": endpoint.port,
        "user": endpoint.user,
        "dbname": endpoint.dbname,
        "options": "",
    }
    return connection_string(pinned)


def connection_string(parameters: Mapping[str, object]) -> str:
    """Parameters in libpq's words, as one string."""
    return " ".join(f"{name}={_quoted(str(value))}" for name, value in parameters.items())


def _quoted(value: str) -> str:
    if value and all(char.isalnum() or char in "/_.-" for char in value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def url(endpoint: Endpoint, environ: dict[str, str] | None = None) -> str:
    """A ``postgresql://`` URL that libpq, asyncpg, SQLAlchemy and JDBC-like parsers take.

    ``hostaddr`` and ``options`` are named only where a stray PGHOSTADDR or PGOPTIONS would set them: asyncpg does
    not know the first, and SQLAlchemy's asyncpg dialect neither.
    """
    environ = dict(os.environ) if environ is None else environ
    pinned = "".join(f"&{key}=" for name, key in PINNED_WHEN_SET.items() if name in environ)
    return (
        f"postgresql://{quote(endpoint.user, safe='')}@/{quote(endpoint.dbname, safe='')}"
        f"?host={quote(endpoint.host, safe='/')}&port={endpoint.port}{pinned}"
    )


def placeholders(endpoint: Endpoint, password: str = "") -> dict[str, str]:
    """What the placeholders of a template in ``lakebranch_env`` stand for; what has a password is a loopback port."""
    return {
        "url": loopback_url(endpoint, password) if password else url(endpoint),
        "host": endpoint.host,
        "port": str(endpoint.port),
        "user": endpoint.user,
        "password": password,
        "database": endpoint.dbname,
    }


def loopback_url(endpoint: Endpoint, password: str) -> str:
    """A URL for drivers that know no unix sockets."""
    who = f"{quote(endpoint.user, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{who}@{endpoint.host}:{endpoint.port}/{quote(endpoint.dbname, safe='')}"


class _Ways:
    """The environment without ``WAYS``, while anybody connects."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._taken: dict[str, str] = {}

    @contextmanager
    def taken_away(self) -> Iterator[None]:
        """From the first who enters to the last who leaves."""
        with self._lock:
            self._users += 1
            self._taken |= {name: os.environ.pop(name) for name in WAYS & os.environ.keys()}
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    os.environ.update(self._taken)
                    self._taken = {}


_WAYS = _Ways()


def connect(endpoint: Endpoint, **kwargs: Any) -> psycopg.Connection[Any]:
    """A psycopg connection, which no variable of ``WAYS`` disturbs; keyword arguments are psycopg's and win over the
    endpoint's.
    """
    import psycopg

    with _WAYS.taken_away():
        return psycopg.connect(conninfo(endpoint), **kwargs)


async def aconnect(endpoint: Endpoint, **kwargs: Any) -> psycopg.AsyncConnection[Any]:
    """An asynchronous psycopg connection; otherwise as :func:`connect`."""
    import psycopg

    with _WAYS.taken_away():
        return await psycopg.AsyncConnection.connect(conninfo(endpoint), **kwargs)


def parameters_of(url: str) -> dict[str, str]:
    """What a URL of a server or a connection string says, in libpq's words; SQLAlchemy's ``postgresql+psycopg:`` too.

    ValueError tells what is wrong and nothing of what is written: any part of it may be a password's.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        parameters = conninfo_to_dict(re.sub(r"^(postgres\w*)\+\w+:", r"\1:", url))
    except ProgrammingError:
        raise ValueError("is no PostgreSQL URL, nor a connection string of libpq") from None
    found = {name: str(value) for name, value in parameters.items()}
    ports = found.get("port", "").split(",")
    if not all(port.isdecimal() or not port for port in ports) or ("://" in url and "@" in found.get("dbname", "")):
        raise ValueError(
            "is no PostgreSQL URL: what stands for its port or its database is none. Characters such as / and @ in a "
            "password are written as %2F and %40"
        )
    return found


def connect_read_only(parameters: Mapping[str, str]) -> psycopg.Connection[Any]:
    """An autocommitting connection to a server that is not ours, on which every transaction is read-only."""
    import psycopg

    pinned = {name: "" for variable, name in PINNED_WHEN_SET.items() if variable in os.environ}
    wanted = connection_string({**pinned, **parameters, "connect_timeout": FOREIGN_SECONDS})
    connection = psycopg.connect(wanted, autocommit=True, prepare_threshold=None)
    try:
        connection.execute("SET default_transaction_read_only = on")
    except psycopg.Error:
        connection.close()
        raise
    return connection
