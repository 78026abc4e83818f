"""A branch of the proof's base for each test of rewinding; a plugin, so that all share the base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from local_rigs import Rig, rig
from rewind_rigs import Branch, MakeBranch


@pytest.fixture(scope="module")
def made(shared_home: Path) -> Iterator[Rig]:
    """A provider on the first rung that works."""
    with rig(shared_home) as one:
        yield one


@pytest.fixture
def branch(made: Rig) -> Iterator[Branch]:
    """A branch of the proof's base."""
    branch = Branch(made)
    yield branch
    branch.compute.discard()


@pytest.fixture
def with_settings(shared_home: Path) -> MakeBranch:
    """To make a branch whose server has settings of the user's."""

    @contextmanager
    def make(*settings: str) -> Iterator[Branch]:
        with rig(shared_home, settings=settings) as made:
            yield Branch(made)

    return make
