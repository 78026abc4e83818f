"""What tests of the engine ask of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.model import Grant
from pytest_lakebranch.postgres.connect import connect

EMPTY = Plan((), ())
Make = Callable[..., Engine]


def request(engine: Engine, purpose: Any = "test", worker: str = "gw0", **more: Any) -> Request:
    """What a test of this worker asks for."""
    return Request(worker, "test_x", purpose, engine.bases.key(EMPTY), **more)


def execute(grant: Grant, *statements: str) -> list[Any]:
    """Run statements on a branch in a connection of their own; the rows of the last."""
    with connect(grant.endpoint, autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
