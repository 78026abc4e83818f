"""Hooks of pytest-lakebranch. A ``conftest.py`` that must also work without the plugin marks its implementations with
``@pytest.hookimpl(optionalhook=True)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_lakebranch.branch import Branch
    from pytest_lakebranch.model import LeaseEnd, Summary


@pytest.hookspec
def pytest_lakebranch_steps(config: pytest.Config) -> Sequence[str | Callable[..., object]]:  # type: ignore[empty-body]
    """Steps that follow those of ``lakebranch_base``: strings as there, or callables that get a psycopg connection."""


@pytest.hookspec
def pytest_lakebranch_branch_ready(branch: Branch, item: pytest.Item | None) -> None:
    """A branch was leased, and nothing of the test has run on it. ``item`` is None for branches wider than a test.

    Not called for those that a test makes itself with ``Branch.fork()``: they begin and end where it says so.
    """


@pytest.hookspec
def pytest_lakebranch_branch_released(branch: Branch, end: LeaseEnd, item: pytest.Item | None) -> None:
    """A lease has ended; the branch cannot be reached any more. For the branch of the run: called in the controller.

    Not called for what ``Branch.fork()`` gave.
    """


@pytest.hookspec
def pytest_lakebranch_report(config: pytest.Config, summary: Summary) -> Any:
    """A line, or several as a list, for the summary at the end of the run. Called in the controller."""
