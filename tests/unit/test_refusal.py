"""The listener that refuses, met by real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import psycopg
import pytest

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import conninfo, url
from pytest_lakebranch.postgres.refusal import Refusal


@pytest.fixture
def refusal() -> Iterator[Refusal]:
    """A listener in a short directory."""
    with TemporaryDirectory(prefix="lbr") as directory:
        listener = Refusal(Path(directory), "nobody is at home", "ring later")
        listener.open()
        yield listener
        listener.close()


def where(refusal: Refusal) -> Endpoint:
    """Where clients find the listener."""
    return Endpoint(str(refusal.directory), 5432, "me", "app")


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_libpq_is_refused_with_the_reason(refusal: Refusal, mode: str) -> None:
    """psycopg raises an OperationalError with the reason and the hint, at once."""
    with pytest.raises(psycopg.OperationalError, match=r"(?s)FATAL:  nobody is at home.*ring later"):
        psycopg.connect(conninfo(where(refusal)), sslmode=mode, gssencmode="disable")


def test_asyncpg_is_refused_with_the_reason(refusal: Refusal) -> None:
    """asyncpg raises its own error class for SQLSTATE 08004."""
    with pytest.raises(asyncpg.PostgresError, match="nobody is at home") as caught:
        asyncio.run(asyncpg.connect(url(where(refusal))))
    assert caught.value.sqlstate == "08004"


def test_the_reason_can_change(refusal: Refusal) -> None:
    """The next client hears the present reason."""
    refusal.reason = "moved"
    with pytest.raises(psycopg.OperationalError, match="moved"):
        psycopg.connect(conninfo(where(refusal)))


def test_garbage_does_not_stop_it(refusal: Refusal) -> None:
    """A client that speaks nonsense or hangs up is dropped, and the next one is answered."""
    import socket

    for data in (b"", b"\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\x7f\xff\xff\xff\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{refusal.directory}/.s.PGSQL.5432")
            client.sendall(data)
    with pytest.raises(psycopg.OperationalError, match="nobody"):
        psycopg.connect(conninfo(where(refusal)))


def test_closed_leaves_no_socket(refusal: Refusal) -> None:
    """After close the file is gone and clients cannot connect."""
    refusal.close()
    assert list(refusal.directory.iterdir()) == []
    with pytest.raises(psycopg.OperationalError, match="No such file"):
        psycopg.connect(conninfo(where(refusal)))
