"""The fixtures. This module is imported in every run: it needs nothing but the standard library and pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    import psycopg

    from pytest_lakebranch.branch import Branch
    from pytest_lakebranch.leasing import TestLease
    from pytest_lakebranch.rehearsal import Rehearsals
    from pytest_lakebranch.run import Run

Scope = Literal["function", "class", "module", "package", "session"]
Factory = Callable[[], "Branch"]


def _run(request: pytest.FixtureRequest) -> Run:
    from pytest_lakebranch.run import run_of, told

    with told():
        return run_of(request.config)


@pytest.fixture
def _lakebranch_lease(request: pytest.FixtureRequest) -> Iterator[TestLease]:
    """The test's lease: taken after wider fixtures and before the test's own."""
    from pytest_lakebranch.leasing import lease_for

    with lease_for(_run(request), request.node) as lease:
        yield lease


@pytest.fixture
def _lakebranch_unleased(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the place of a lease, for a test that has none."""
    from pytest_lakebranch.leasing import unleased

    with unleased(_run(request), request.node):
        yield


@pytest.fixture
def lakebranch(_lakebranch_lease: TestLease) -> Branch:
    """A branch of the base in fresh state, for this test alone."""
    from pytest_lakebranch.run import told

    with told():
        return _lakebranch_lease.branch


@pytest.fixture
def lakebranch_url(lakebranch: Branch) -> str:
    """The URL of the test's branch."""
    return lakebranch.url


@pytest.fixture
def lakebranch_conn(_lakebranch_lease: TestLease) -> Iterator[psycopg.Connection[Any]]:
    """A psycopg connection to the test's branch, not autocommit."""
    from pytest_lakebranch.run import told

    with told(), _lakebranch_lease.connection() as connection:
        yield connection


@pytest.fixture(scope="session")
def lakebranch_worker(request: pytest.FixtureRequest) -> Branch:
    """This worker's branch. Tests that (also indirectly) use it get branches forked from its present state."""
    from pytest_lakebranch.run import told

    with told():
        return _run(request).shared("worker")


@pytest.fixture(scope="session")
def lakebranch_run(request: pytest.FixtureRequest) -> Branch:
    """The branch of the whole run, shared by all workers. Tests that use it get branches forked from it."""
    from pytest_lakebranch.run import told

    with told():
        return _run(request).shared("run")


@pytest.fixture
def lakebranch_migration(request: pytest.FixtureRequest) -> Iterator[Rehearsals]:
    """The newest migration on a branch of its own, in the state that it finds; called with a name, another migration.

    ``.apply()`` and ``.rollback()`` are measured: ``.locks``, ``.rewrites``, ``.wal_bytes``, ``.duration``.
    """
    from pytest_lakebranch.rehearsal import rehearsals

    with rehearsals(_run(request)) as newest:
        yield newest


@pytest.fixture
def lakebranch_factory(request: pytest.FixtureRequest, _lakebranch_lease: TestLease) -> Iterator[Factory]:
    """A callable that gives further branches of the base, each in fresh state; they end with the test."""
    from pytest_lakebranch.leasing import factory

    with factory(_run(request), request.node) as make:
        yield make


def lakebranch_fixture(
    *, scope: Scope = "function", base: Sequence[str | Callable[..., object]] | None = None
) -> Callable[..., Iterator[Branch]]:
    """A further branch fixture for a ``conftest.py``: ``orders = lakebranch_fixture(scope="module")``.

    ``base`` gives it a base of its own (steps as in ``lakebranch_base``); the default is the project's. The
    application's URL does not lead to it.
    """

    @pytest.fixture(scope=scope)
    def branch(request: pytest.FixtureRequest) -> Iterator[Branch]:
        """A branch of the base in fresh state, for the fixture's scope."""
        from pytest_lakebranch.leasing import branch_for

        with branch_for(_run(request), request.node, base=base) as made:
            yield made

    return branch
