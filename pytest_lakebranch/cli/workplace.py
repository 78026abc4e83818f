"""A provider for one command, in a run directory of its own that nobody takes for dead, and that is gone afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pytest_lakebranch.config import Settings
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.servant import make_files_as_servant
from pytest_lakebranch.state import State


@contextmanager
def provider(settings: Settings, state: State, *, own_layers: bool = False) -> Iterator[LocalProvider]:
    """A provider until the block ends; with ``own_layers`` it leaves the cache of the state directory alone.

    Should this process be killed, its servers die with it, and the next run removes the rest.
    """
    make_files_as_servant()
    directory = RunDirectory.of(state, uuid.uuid4().hex)
    with ExitStack() as stack:
        stack.callback(directory.remove)
        directory.ensure(Identity.of(os.getpid()))
        stack.callback(os.close, directory.claim())
        cache = State(directory.path / "own").ensure() if own_layers else state
        made = LocalProvider(settings, state=cache, run_directory=directory.path, sockets=directory.sockets)
        stack.callback(made.close)
        yield made
