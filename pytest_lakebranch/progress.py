"""Lines about a base that takes long to build, written to the controller's terminal, past pytest's capture."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

PATIENCE = 1.0
"""Seconds during which nothing is said."""


class Progress:
    """A line per step once building has taken a second. Without a ``terminal`` (its path) nothing is ever written.

    The path is what a worker needs: its own standard output is a pipe to the controller.
    """

    def __init__(self, terminal: str | None) -> None:
        self._terminal = terminal
        self._lines: list[str] = []
        self._lock = threading.Lock()
        self._talking = False
        self._began = time.monotonic()

    @contextlib.contextmanager
    def building(self, labels: tuple[str, ...]) -> Iterator[None]:
        """The time in which a base is built, from the first of the steps ``labels`` to the sealed layer."""
        self._began = time.monotonic()
        self._lines = [f"lakebranch: building the base ({len(labels)} {'step' if len(labels) == 1 else 'steps'})"]
        timer = threading.Timer(PATIENCE, self._speak)
        timer.daemon = True
        timer.start()
        try:
            yield
            self._say(f"lakebranch: base ready after {time.monotonic() - self._began:.1f} s, cached for later runs")
        finally:
            timer.cancel()

    def stepped(self, label: str, amount: str, seconds: float) -> None:
        """One step is done; ``amount`` tells how much in a few words."""
        self._say(f"  {label}: {amount}, {seconds:.1f} s")

    def _say(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)
            if self._talking:
                self._write()

    def _speak(self) -> None:
        with self._lock:
            self._talking = True
            self._lines[0] = "\n" + self._lines[0]
            self._write()

    def _write(self) -> None:
        text, self._lines = "".join(f"{line}\n" for line in self._lines), []
        if self._terminal is not None:
            with contextlib.suppress(OSError), open(self._terminal, "w") as stream:  # noqa: PTH123  (a device)
                stream.write(text)
