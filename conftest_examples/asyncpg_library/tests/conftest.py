"""An engine's pool belongs to the event loop of a test: SQLAlchemy asks for it to be emptied there."""

import pytest
from library.loans import engine


@pytest.fixture(autouse=True)
async def pool_of_this_loop():
    """Close what the test has opened."""
    yield
    await engine.dispose()
