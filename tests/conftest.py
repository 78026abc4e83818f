"""What all tests share: an environment without traces of the run around them, and a state directory of their own."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# A shell that starts tests in the background has them ignore SIGINT, and so would every program that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOM = 4 << 30
OF_OURS = ("PG", "LAKEBRANCH_", "PYTEST_XDIST_", "PYTEST_ADDOPTS", "DATABASE_URL", "GITHUB_")
OF_CI = ("CI", "BUILD_NUMBER")
"""Where these are set pytest repeats whole messages in its summary, and the tests count messages."""


@contextmanager
def quick_directory() -> Iterator[Path]:
    """In memory where there is room: a thousand small files are made quicker there than on most disks."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > ROOM
    directory = Path(tempfile.mkdtemp(prefix="lbhome", dir=memory if roomy else None))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A directory of the test's own, on the quickest disk."""
    with quick_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def shared_home() -> Iterator[Path]:
    """A state directory for all tests of this worker: layers that one test has built serve the next."""
    with quick_directory() as home:
        yield home


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, shared_home: Path) -> None:
    """No variable of the run around a test reaches what the test starts."""
    for name in [name for name in os.environ if name.startswith(OF_OURS) or name in OF_CI]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LAKEBRANCH_HOME", str(shared_home))


def pytest_collection_finish() -> None:
    """What is there by now stays: tests that collect garbage need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``soak`` run where SOAK is in the environment (``make soak``)."""
    if "SOAK" not in os.environ:
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="long: make soak"))
