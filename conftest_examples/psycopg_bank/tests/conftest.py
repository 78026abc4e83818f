"""The pool has threads of its own, which end with the run."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def pool_is_closed():
    """As the application does when it ends."""
    yield
    from bank.transfers import pool

    pool.close()
