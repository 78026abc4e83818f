"""A loopback port that leads wherever a socket directory does, served by a process of its own.

Not by a thread of the process that uses it: libpq's PQcancel waits for its answer with Python's lock held.

``python -m pytest_lakebranch.postgres.port DIRECTORY`` reads the password from its input, answers with the port, and
then cuts off its clients for every further line; it ends with its input, or with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.waiting import Clock

LOOK_SECONDS = 1.0
STOP_SECONDS = 5.0


class Port:
    """A port of this machine that leads wherever the link ``to`` does; whoever knows the password may use it."""

    def __init__(self, to: Path) -> None:
        self.password = secrets.token_urlsafe(18)
        environ = environment_without_pg() | {"PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-P", "-m", "pytest_lakebranch.postgres.port", str(to)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environ, text=True, cwd="/")
        self.number = int(self._ask(self.password) or 0)
        if not self.number:
            self.close()
            raise MachineError("lakebranch_listen=tcp: no loopback port could be opened; its process said why above.")

    def cut(self) -> None:
        """Hang up on everybody."""
        self._ask("cut")

    def _ask(self, line: str) -> str:
        process = self._process
        if process.stdin is None or process.stdout is None:
            return ""
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except BrokenPipeError:  # it was killed: there is nobody left to hang up on
            return ""
        return process.stdout.readline().strip()

    def close(self) -> None:
        """Take no more clients; the process ends. Idempotent."""
        self._process.terminate()  # children that a test forked may keep its input open
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):  # it was killed before it read all
                if stream is not None:
                    stream.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Be the process."""
    from pytest_lakebranch.postgres.forwarder import Forwarder, InDirectory, listen_here

    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    password = sys.stdin.readline().strip()
    listener = listen_here()
    forwarder = Forwarder(listener, InDirectory(Path(sys.argv[1])), name="branch", password=password)
    forwarder.open()
    _say(str(listener.getsockname()[1]))
    for _ in sys.stdin:
        _say(str(forwarder.cut()))
    forwarder.close()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _end_with(parent: int) -> None:
    """Our input stays open as long as children that the process forked live: hence the look at our parent."""
    clock = Clock()
    while os.getppid() == parent:
        clock.sleep(LOOK_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
