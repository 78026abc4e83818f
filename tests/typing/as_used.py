"""What a user's type checker sees: checked by mypy --strict, never run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

import psycopg
import pytest

from pytest_lakebranch import Branch, lakebranch_fixture
from pytest_lakebranch.model import LeaseEnd, Summary

reporting = lakebranch_fixture(scope="module", base=["sql:reporting.sql"])


@pytest.mark.lakebranch(isolation="worker")
def test_branch(lakebranch: Branch, lakebranch_factory: Callable[[], Branch], lakebranch_run: Branch) -> None:
    assert_type(lakebranch.url, str)
    assert_type(lakebranch.conninfo, str)
    assert_type(lakebranch.name, str)
    assert_type(lakebranch.parent, str)
    assert_type(lakebranch_factory(), Branch)
    with lakebranch.connect(autocommit=True) as conn:
        assert_type(conn, psycopg.Connection[Any])
    with lakebranch.fork() as child:
        assert_type(child, Branch)
    lakebranch.reset()
    lakebranch_run.once(lambda branch: branch.connect())


async def test_async(lakebranch: Branch) -> None:
    async with await lakebranch.aconnect() as conn:
        assert_type(conn, psycopg.AsyncConnection[Any])


def pytest_lakebranch_branch_released(branch: Branch, end: LeaseEnd, item: pytest.Item | None) -> None:
    assert_type(end.connections, int)
    assert_type(end.held, float)


def pytest_lakebranch_report(config: pytest.Config, summary: Summary) -> str:
    return f"{len(summary.leases)} leases on {summary.facts.postgres}"
