"""What all measurements share: a place to work, an engine without a host, medians."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.config import resolve
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.state import State, make_private

ROOT = Path(__file__).parents[1]
QUIET = ("-p", "no:randomly", "-p", "no:django", "-p", "no:asyncio", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Figure:
    """One result: what was measured, the value with its unit, and the target if there is one."""

    what: str
    value: float
    unit: str
    target: float | None = None

    @property
    def missed(self) -> bool:
        """Whether there is a target, and the value is worse."""
        return self.target is not None and self.value > self.target

    def line(self) -> str:
        """As a row of the table."""
        goal = "" if self.target is None else f"  target ≤ {self.target:g}  {'MISSED' if self.missed else 'ok'}"
        return f"{self.what:66} {self.value:9.2f} {self.unit:3}{goal}"


def milliseconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1e3


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


@contextmanager
def workplace(where: Path | None = None) -> Iterator[Path]:
    """An empty directory, by default in the working directory's file system."""
    with tempfile.TemporaryDirectory(prefix="lbb", dir=where) as directory:
        yield Path(directory)


@contextmanager
def provider(home: Path, storage: str) -> Iterator[LocalProvider]:
    """A local provider with a state directory at ``home``."""
    settings = resolve(options={"storage": storage, "home": str(home)}, environ={}, ini={}, root=home)
    state = State(home).ensure()
    run = make_private(state.runs / f"bench{os.getpid()}")
    with workplace() as sockets:
        made = LocalProvider(settings, state=state, run_directory=run, sockets=sockets)
        try:
            yield made
        finally:
            made.close()


def run_pytest(project: Path, *arguments: str, home: Path | None = None) -> str:
    """Run pytest in ``project`` with this environment; what it printed; fails when it fails."""
    environment = {**os.environ, **({} if home is None else {"LAKEBRANCH_HOME": str(home)})}
    command = [sys.executable, "-m", "pytest", *QUIET, *arguments]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout
