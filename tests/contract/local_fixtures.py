"""Fixtures for the tests of the local provider; a plugin, so that several test modules share volumes and layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from local_rigs import SYSTEM_15, Rig, Volumes, rig, volumes

from pytest_lakebranch.config import RUNGS
from pytest_lakebranch.errors import MachineError


@pytest.fixture(scope="session")
def local_volumes() -> Iterator[Volumes]:
    """File systems for the rungs that need one."""
    with volumes() as made:
        yield made


@pytest.fixture(params=RUNGS)
def rung(request: pytest.FixtureRequest) -> str:
    """Each storage rung in turn."""
    return str(request.param)


@pytest.fixture
def local_home(rung: str, local_volumes: Volumes) -> Path:
    """A state directory on which the rung works, shared by all tests: a base is built there once."""
    return local_volumes.home(rung) / f"home-{rung}"


@pytest.fixture
def any_rung(rung: str, local_home: Path) -> Iterator[Rig]:
    """A provider on each rung in turn."""
    try:
        with rig(local_home, storage=rung) as made:
            yield made
    except MachineError as error:
        pytest.skip(f"this machine lacks the rung: {error}")


@pytest.fixture
def plain_home(local_volumes: Volumes) -> Path:
    """A state directory on the machine's own disk, shared by all tests."""
    return local_volumes.directory / "home-plain"


@pytest.fixture
def local(plain_home: Path) -> Iterator[Rig]:
    """A provider on the first rung that works."""
    with rig(plain_home) as made:
        yield made


@pytest.fixture
def local_rig(quick_path: Path) -> Callable[..., AbstractContextManager[Rig]]:
    """To make providers with options, in a state directory of the test's own."""
    return lambda **options: rig(quick_path / "home", **options)


@pytest.fixture
def system_15(plain_home: Path) -> Iterator[Rig]:
    """A provider that uses Debian's PostgreSQL 15."""
    if not Path(SYSTEM_15).exists():
        pytest.skip(f"no PostgreSQL 15 in {SYSTEM_15}")
    with rig(plain_home, postgres=SYSTEM_15, user="tester") as made:
        yield made
