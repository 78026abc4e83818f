"""Starts and stops that nobody waits for; what goes wrong in them is kept for the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from pytest_lakebranch.errors import UpkeepError


class Background:
    """A few threads, about one per processor, because starting a server is work for the processor.

    Where it is not, but waiting, ``starts`` threads of their own wait for starts: ends never stand in line behind them.
    """

    def __init__(self, starts: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(max(2, min(os.cpu_count() or 2, 8)), "lakebranch")
        self._starting = self._threads if starts is None else ThreadPoolExecutor(starts, "lakebranch-start")
        self.troubles: list[str] = []
        self.remarks: list[str] = []

    def submit(self, work: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Do ``work`` soon. An exception goes to :attr:`troubles`."""
        self._submit(self._threads, work, *args, **kwargs)

    def submit_start(self, work: Callable[..., None]) -> None:
        """As :meth:`submit`, for a start."""
        self._submit(self._starting, work)

    def _submit(self, threads: ThreadPoolExecutor, work: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            threads.submit(work, *args, **kwargs).add_done_callback(self._note)
        except RuntimeError:  # closed: the run is over, and the last things are done at once
            with self.noted():
                work(*args, **kwargs)

    def _note(self, done: Future[None]) -> None:
        error = done.exception()
        if error is not None:
            self._enter(error)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An exception in the block goes to :attr:`troubles`, so that what comes after the block is done as well."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (kept for the report, which is where clean-up failures are seen)
            self._enter(error)

    def _enter(self, error: BaseException) -> None:
        """What leaves nothing behind goes to :attr:`remarks`."""
        for one in error.exceptions if isinstance(error, BaseExceptionGroup) else [error]:
            if isinstance(one, UpkeepError):
                self.remarks.append(str(one))
            else:
                self.troubles.append(f"{type(one).__name__}: {one}")

    def close(self) -> None:
        """Finish what was submitted."""
        self._starting.shutdown(wait=True)
        self._threads.shutdown(wait=True)
