"""pytest-django makes no test database: each test has a branch of the migrated base."""

import pytest


@pytest.fixture(scope="session")
def django_db_setup():
    """The base is migrated already."""
