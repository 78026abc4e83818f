"""Fixtures that give engines over a real local provider, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.config import resolve
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.state import State
from tests.contract.engine_rigs import EMPTY, Make


@pytest.fixture
def make(shared_home: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes engines over the state directory that all tests share."""
    with TemporaryDirectory(prefix="lbe") as short:
        made: list[Engine] = []
        runs: list[Path] = []

        def new(**options: Any) -> Engine:
            settings = resolve(options={"home": str(shared_home)}, environ={}, ini={}, root=tmp_path)
            state = State.at(settings.home).ensure()
            run = state.runs / f"{os.getpid()}-{tmp_path.name}-{len(made)}"
            sockets = Path(short) / str(len(made))
            for directory in (run, sockets):
                directory.mkdir(mode=0o700)
            provider = LocalProvider(settings, state=state, run_directory=run, sockets=sockets)
            engine = Engine(provider, Ledger(tmp_path / f"ledger{len(made)}"), addresses=sockets, **options)
            made.append(engine)
            runs.append(run)
            return engine

        yield new
        for engine, run in zip(made, runs, strict=True):
            engine.close()
            run.rmdir()


@pytest.fixture
def engine(make: Make) -> Engine:
    """An engine with the base that has no steps."""
    engine = make()
    assert engine.bases.request("gw0", EMPTY) is None
    return engine
