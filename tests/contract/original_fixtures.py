"""Fixtures for the tests that copy the files of a server; a plugin, so that several test modules share it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_rigs import Rig, rig
from original_rigs import ROLES, SHOP, Original
from step_servers import Server, running


@pytest.fixture(scope="session")
def original_server() -> Iterator[Server]:
    """A server with checksums and segments of 16 MB, as initdb makes them, whose checkpoints take their time."""
    more = {"max_prepared_transactions": 5, "shared_buffers": "300MB", "max_logical_replication_workers": 0}
    with running("embedded", **more) as made:
        with made.connect() as conn:
            conn.execute(ROLES)
        yield made


@pytest.fixture
def shop(
    original_server: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Original]:
    """A database with something of everything, and nothing in memory that a checkpoint would have to write."""
    name = f"shop {request.node.name}"[:50]
    with original_server.connect() as conn:
        conn.execute(f'CREATE DATABASE "{name}"')
    made = Original(original_server, name, monkeypatch)
    made.execute(SHOP, f"ALTER DATABASE \"{name}\" SET work_mem = '7MB'", "CHECKPOINT")
    yield made
    with original_server.connect() as conn:
        conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def quick(shared_home: Path) -> Iterator[Rig]:
    """A provider on the quickest disk."""
    with rig(shared_home) as made:
        yield made
