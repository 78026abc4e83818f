"""Fixtures for the tests of the emulator; a plugin, so that several test modules share one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from emulator_rigs import Emulated, Options, emulated


@pytest.fixture(scope="session")
def emulator_home(shared_home: Path) -> Iterator[Path]:
    """A state directory in which the emulators' base is built once; not in that of other tests, which look for what is
    left in theirs.
    """
    home = Path(tempfile.mkdtemp(prefix="lbemu", dir=shared_home.parent))
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="session")
def lakebase(emulator_home: Path) -> Iterator[Emulated]:
    """One emulator for all tests that do not change more than branches of their own."""
    with emulated(emulator_home) as made:
        yield made


@pytest.fixture
def tidy(lakebase: Emulated) -> Iterator[None]:
    """Branches of the test do not count for the next one's limits."""
    yield
    lakebase.clear()


@pytest.fixture
def new_emulator(emulator_home: Path) -> Iterator[Callable[..., Emulated]]:
    """To make an emulator of the test's own, with options."""
    with ExitStack() as stack:

        def make(**options: object) -> Emulated:
            context: AbstractContextManager[Emulated] = emulated(emulator_home, Options(**options))  # type: ignore[arg-type]
            return stack.enter_context(context)

        yield make
