"""A migration tool in a process of its own, which imports the application as the user's shell would.

What the application does when it is imported, and what the tool does to logging and warnings, stays out of the tests'
process.  The process is reached through one end of a socket pair and ends when the other end closes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import url
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.state import make_seat, move, remove_owned
from pytest_lakebranch.steps import hints
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure, base_error
from pytest_lakebranch.steps.files import Application, Inputs

LAST_LINES = 20


def application_environment(application: Application, endpoint: Endpoint) -> dict[str, str]:
    """The environment of a process whose application is to reach ``endpoint`` and nothing else.

    ``DATABASE_URL`` and libpq's own variables lead there, and so do those of ``lakebranch_env``.
    """
    return {
        **environment_without_pg(),
        "PGHOST": endpoint.host,
        "PGPORT": str(endpoint.port),
        "PGUSER": endpoint.user,
        "PGDATABASE": endpoint.dbname,
        "DATABASE_URL": url(endpoint, {}),
        **application.variables(endpoint),
    }


@dataclass(frozen=True, slots=True)
class Kit:
    """How to start a tool: the module to run, what it is loaded with, the directory it runs in, and the distributions
    that decide what a migration does.
    """

    module: str
    arguments: Mapping[str, Any]
    cwd: Path
    distributions: tuple[str, ...]

    def versions(self) -> list[str]:
        """Name and version of each distribution."""
        return [f"{name} {_version(name)}" for name in self.distributions]


@cache
def _version(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # put on the path by other means than installing
        return "unknown"


@dataclass(slots=True)
class Toolbox:
    """The tool of one step: started when it is asked something, ended when :meth:`open` ends or the answer is there."""

    kit: Kit
    inputs: Inputs
    _opened: int = 0
    _running: list[Process] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Keep the process until the block ends; blocks may be nested."""
        self._opened += 1
        try:
            yield
        finally:
            self._opened -= 1
            if not self._opened:
                self._end()

    def ask(self, call: str, *, place: Workplace | None = None, **arguments: Any) -> Any:
        """What the tool answers; with a ``place``, the application's URL leads there meanwhile.

        Raises ConfigError for what is written wrongly (BaseError with a place), BaseError when user code fails.
        """
        with self.open():
            answer = self._process(place).ask({"call": call, "arguments": arguments})
        if "value" in answer:
            return answer["value"]
        if "refused" in answer:
            text = f"{self.inputs.label}: {answer['refused']}"
            raise (ConfigError if place is None else BaseError)(text)
        failure = Failure(**answer["failed"])
        advice = hints.of_python(failure.message) or (hints.advice(failure.message, place) if place else "")
        raise base_error(self.inputs.label, failure, advice)

    def _process(self, place: Workplace | None) -> Process:
        endpoint = self.inputs.application.at("") if place is None else replace(place.endpoint, host="")
        if self._running and self._running[0].seat != endpoint and place is not None:
            self._end()  # the variables of its environment name another role or database
        if not self._running:
            self._running.append(Process.start(self.kit, self.inputs, endpoint))
        if place is not None:
            self._running[0].lead_to(Path(place.endpoint.host))
        return self._running[0]

    def _end(self) -> None:
        while self._running:
            self._running.pop().end()


@dataclass(slots=True)
class Process:
    """One such process. ``seat`` is where it connects, without the directory, which is its own."""

    label: str
    seat: Endpoint
    directory: Path
    process: subprocess.Popen[bytes]
    line: socket.socket
    stream: Any

    @classmethod
    def start(cls, kit: Kit, inputs: Inputs, seat: Endpoint) -> Process:
        """Start one; it loads the tool when it is first asked."""
        directory = make_seat()
        endpoint = replace(seat, host=str(directory / "db"))
        line, theirs = socket.socketpair()
        with theirs:
            process = _spawned(kit, application_environment(inputs.application, endpoint), theirs, directory)
        started = cls(inputs.label, seat, directory, process, line, line.makefile("rw"))
        where = {
            "host": endpoint.host,
            "port": endpoint.port,
            "user": endpoint.user,
            "database": endpoint.dbname,
            "loopback": inputs.application.port and [inputs.application.port.host, inputs.application.port.port],
        }
        path = [str(kit.cwd), str(inputs.root), *sys.path]
        started._send({"path": path, "root": str(inputs.root), "arguments": {**kit.arguments, "where": where}})
        return started

    def lead_to(self, target: Path) -> None:
        """The application's URL leads to the socket directory ``target`` from now on."""
        move(self.directory / "db", target)

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; BaseError with the process's last words if it dies meanwhile."""
        try:
            self._send(request)
            answer = self.stream.readline()
        except OSError:
            answer = ""
        if not answer:
            raise BaseError(f"{self.label}: {self._last_words()}")
        value: dict[str, Any] = json.loads(answer)
        return value

    def _send(self, message: dict[str, Any]) -> None:
        self.stream.write(json.dumps(message) + "\n")
        self.stream.flush()

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        said = (self.directory / "output").read_text(errors="replace").splitlines()[-LAST_LINES:]
        words = masked("\n".join(f"    {line}" for line in said))
        return f"its process ended with status {self.process.returncode}" + (f":\n{words}" if said else ".")

    def end(self) -> None:
        """End it and everything it started; what it was doing on the server ends with its connection."""
        with suppress(OSError):
            self.stream.close()
        self.line.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(OSError):  # the reaper tells what cannot be removed
            remove_owned(self.directory)


def _spawned(kit: Kit, environ: dict[str, str], line: socket.socket, directory: Path) -> subprocess.Popen[bytes]:
    ours = str(Path(__file__).parents[2])
    with (directory / "output").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", kit.module, str(line.fileno())],
            cwd=kit.cwd,
            env={**environ, "PYTHONPATH": os.pathsep.join(filter(None, (ours, environ.get("PYTHONPATH"))))},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[line.fileno()],
            start_new_session=True,
        )
