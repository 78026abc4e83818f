"""The host of a run, started while pytest still collects: the first test that asks for a branch finds it there."""

from __future__ import annotations

import threading
from contextlib import suppress

from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.host.client import START_SECONDS, connect, environment, start_unless_claimed
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.processes import Identity


class Ahead:
    """A host on its way. Its end belongs to whoever used it; where nobody did, to :meth:`abandon`."""

    def __init__(self, directory: RunDirectory, settings: Settings, *, controller: Identity, workers: int) -> None:
        self._directory = directory
        directory.ensure(controller)
        directory.write_order(settings, controller, workers)
        self._over = threading.Event()
        self._abandoned = False
        # A daemon: pytest does not wait for it. A host whose controller is gone ends by itself.
        target, arguments = self._start, (environment(),)  # taken here: a conftest may be changing the environment
        self._thread = threading.Thread(target=target, args=arguments, name="lakebranch-ahead", daemon=True)
        self._thread.start()

    def _start(self, environment: dict[str, str]) -> None:
        with suppress(LakebranchError, OSError):  # whoever asks for a branch meets it again, and is told
            start_unless_claimed(self._directory, environment)
        self._over.wait()
        if self._abandoned:
            with suppress(LakebranchError, OSError):  # it could not start
                connect(self._directory, worker="main").finish()

    def leave(self) -> None:
        """Its users end it; one that is still starting is waited for, so that it can be ended."""
        self._over.set()
        self._thread.join(START_SECONDS)

    def abandon(self) -> None:
        """Nobody used it: it ends soon, and nobody waits for that."""
        self._abandoned = True
        self._over.set()
