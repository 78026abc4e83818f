"""Starts and stops that nobody waits for; what goes wrong in them is kept for the report."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """A few threads, about one per processor, because starting a server is work for the processor."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max(2, min(os.cpu_count() or 2, 8)), "lakebranch")
        self.troubles: list[str] = []

    def submit(self, work: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Do ``work`` soon. An exception goes to :attr:`troubles`."""
        self._threads.submit(work, *args, **kwargs).add_done_callback(self._note)

    def _note(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            self.troubles.append(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Finish what was submitted."""
        self._threads.shutdown(wait=True)
