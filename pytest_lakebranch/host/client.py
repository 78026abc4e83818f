"""A worker's line to the host, which is started by the controller, or by whoever calls first."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pytest_lakebranch.branches.base import Plan, Ticket
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import HostError
from pytest_lakebranch.host import wire
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.host.watch import wait_for_end
from pytest_lakebranch.model import Endpoint, Grant, LeaseEnd, Summary
from pytest_lakebranch.processes import Identity, environment_without_pg, import_ahead
from pytest_lakebranch.waiting import Deadline, poll

START_SECONDS = 180.0
"""Longer than a host takes that gives up finding its cloud (CALL_SECONDS of the provider, and one answer)."""
REACH_SECONDS = 10.0
POLL_SECONDS = 0.005


class HostClient:
    """Calls to one run's host. May be used from several threads; calls are carried out one after another."""

    def __init__(self, directory: RunDirectory, *, worker: str) -> None:
        self._directory = directory
        self._worker = worker
        self._lock = threading.Lock()
        self.broken = False
        self._late: list[tuple[str, dict[str, Any]]] = []
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._connection.connect(str(directory.socket))
        except OSError:
            self._connection.close()
            raise
        self._stream = self._connection.makefile("rwb")
        self._owner = os.getpid()
        self._call("hello", worker=worker, process=asdict(Identity.of(os.getpid())))

    def base(self, plan: Plan) -> tuple[str, Ticket | None, Path]:
        """The base's key, a ticket if this worker is to build it, and the directory of PostgreSQL's programs."""
        answer = self._call("base", worker=self._worker, **asdict(plan))
        stored = answer["ticket"]
        ticket = Ticket(**{**stored, "endpoint": Endpoint(**stored["endpoint"])}) if stored else None
        return answer["key"], ticket, Path(answer["programs"])

    def stepped(self, ticket: str, done: int, seconds: float, *, keep: bool = False) -> Endpoint:
        """Say that the first ``done`` steps are applied; learn where the next one works."""
        return Endpoint(**self._call("stepped", ticket=ticket, done=done, seconds=seconds, keep=keep))

    def incoming(self, ticket: str) -> Path | None:
        """Where to put the files of another server, if they are taken."""
        directory: str | None = self._call("incoming", ticket=ticket)
        return None if directory is None else Path(directory)

    def replaced(self, ticket: str, database: str) -> None:
        """Say that they are there; returns when a server works on them."""
        self._call("replaced", ticket=ticket, database=database)

    def built(self, ticket: str) -> None:
        """Say that all steps are applied; returns when the base is sealed."""
        self._call("built", ticket=ticket)

    def died(self, ticket: str) -> str | None:
        """What the server of a base on its way said last, if it has died; None while it lives."""
        words: str | None = self._call("died", ticket=ticket)
        return words

    def failed(self, ticket: str, message: str) -> None:
        """Say that a step failed."""
        self._call("failed", ticket=ticket, message=message)

    def lease(self, request: Request) -> Grant:
        """A branch on loan."""
        return wire.grant(self._call("lease", **asdict(request)))

    def release(self, lease: str, *, failed: str = "") -> LeaseEnd:
        """End a lease; ``failed`` tells how its test failed, and is empty when it did not."""
        return LeaseEnd(**self._call("release", lease=lease, failed=failed))

    def death(self, lease: str, *, seen: str = "") -> str | None:
        """What the server of a leased branch said last, if it has died; None while it lives. See :class:`Engine`."""
        words: str | None = self._call("death", lease=lease, seen=seen)
        return words

    def reset(self, lease: str) -> Grant:
        """Put the branch of a lease back into the state it was leased in."""
        return wire.grant(self._call("reset", lease=lease))

    def disconnect(self, lease: str, *, but: Collection[int]) -> int:
        """End a branch's client connections, but those of the given server processes; how many there were."""
        count: int = self._call("disconnect", lease=lease, but=list(but))
        return count

    def begin(self, key: str) -> bool:
        """Whether this worker is to do the work ``key``; False when it is done. Waits while another is at it.

        It asks again and again meanwhile: who is at it may be another thread, which needs the line.
        """
        ask = partial(self._call, "begin", key=key, worker=self._worker)
        mine: bool | None = poll(ask, deadline=Deadline(math.inf), every=POLL_SECONDS)
        return bool(mine)

    def end(self, key: str, *, done: bool) -> None:
        """Say that the work was done, or failed."""
        self._call("end", key=key, done=done)

    def finish(self) -> Summary:
        """End the run; returns when its branches are gone and the host has ended."""
        host = self._peer()
        summary = wire.summary(self._call("finish"))
        self.close()
        if host is not None and not wait_for_end(host, timeout=30):
            raise HostError(f"the host (pid {host.pid}) did not end within 30 s; its log is {self._directory.log}.")
        return summary

    def close(self) -> None:
        """Hang up. Idempotent."""
        self.broken = True
        with contextlib.suppress(OSError):  # what was still to be written, to a host that is gone
            self._stream.close()
        self._connection.close()

    def _peer(self) -> Identity | None:
        if not hasattr(socket, "SO_PEERCRED"):
            return None
        credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return Identity.of(int.from_bytes(credentials[:4], sys.byteorder))

    def _call(self, call: str, **arguments: Any) -> Any:
        if os.getpid() != self._owner:
            raise HostError(
                "this process was forked from a pytest worker: branches are leased and released by the worker only."
            )
        with self._lock:
            answer = self._exchange(call, arguments) if self._late_answers_taken() else None
        if answer is None:
            raise HostError(
                f"the host of this run is gone (asked for {call!r}). All branches of the run are gone with it; "
                f"start the run again. What it said last: {last_words(self._directory.log)}"
            )
        return wire.value(answer)

    def _exchange(self, call: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        """Send a call and wait for its answer; None when the host is gone."""
        sent = False
        try:
            wire.send(self._stream, {"call": call, "arguments": arguments})
            sent = True
            return wire.receive(self._stream)
        except (OSError, ValueError):
            return None
        except KeyboardInterrupt:  # nobody wants to wait for the answer any more
            self.close()
            raise
        except BaseException:  # a signal handler raised, as a time limit on a test does: the answer will come
            if sent:
                self._late.append((call, arguments))
            else:  # the host may have half a line
                self.close()
            raise

    def _late_answers_taken(self) -> bool:
        """Read the answers to calls that were interrupted, and give back what they brought; False: the host is gone."""
        while self._late:
            try:
                answer = wire.receive(self._stream)
            except (OSError, ValueError):
                answer = None
            if answer is None:
                return False
            self._give_back(*self._late.pop(0), answer.get("value"))
        return True

    def _give_back(self, call: str, arguments: dict[str, Any], brought: Any) -> None:
        if call == "lease" and brought:
            self._exchange("release", {"lease": brought["lease"]})
        elif call == "base" and brought and brought["ticket"]:
            self._exchange("returned", {"ticket": brought["ticket"]["id"]})
        elif call == "begin" and brought:
            self._exchange("end", {"key": arguments["key"], "done": False})


def last_words(log: Path, lines: int = 3) -> str:
    """The end of a log, for an error's text."""
    try:
        found = log.read_text(errors="replace").strip().splitlines()[-lines:]
    except FileNotFoundError:
        return "nothing (its log is gone)"
    return " | ".join(found) or "nothing"


def connect(directory: RunDirectory, *, worker: str) -> HostClient:
    """A line to the host of a run that has one; raises OSError when it has none."""
    return HostClient(directory, worker=worker)


def connect_or_start(
    directory: RunDirectory, *, worker: str, settings: Settings, controller: Identity, workers: int
) -> HostClient:
    """A line to the run's host, started here under a lock if nobody has before.

    Raises the error that kept the host from starting, in its own class.
    """
    from filelock import FileLock

    directory.ensure(controller)
    if client := _try_connect(directory, worker):
        return client
    with FileLock(directory.path / "spawn.lock", poll_interval=POLL_SECONDS):
        if failed := directory.failure():  # another worker has tried, and was told
            wire.value(json.loads(failed))
        client = _try_connect(directory, worker)
        if client is None:
            directory.write_order(settings, controller, workers)
            _start(directory, environment())
            client = poll(lambda: _try_connect(directory, worker), deadline=Deadline(REACH_SECONDS))
    if client is None:
        raise HostError(f"the host was started and cannot be reached. What it said: {last_words(directory.log)}")
    return client


def start_unless_claimed(directory: RunDirectory, environment: dict[str, str]) -> None:
    """Start the host whose order lies in the directory, if nobody has before. Raises what keeps it from starting."""
    from filelock import FileLock

    with FileLock(directory.path / "spawn.lock", poll_interval=POLL_SECONDS):
        if not directory.is_claimed:
            _start(directory, environment)


def environment() -> dict[str, str]:
    """What a host sees of this process's environment; it imports us from where we were imported."""
    here = str(Path(__file__).parents[2])
    found = environment_without_pg()
    return {**found, "PYTHONPATH": os.pathsep.join(filter(None, [here, found.get("PYTHONPATH")]))}


def _try_connect(directory: RunDirectory, worker: str) -> HostClient | None:
    try:
        return HostClient(directory, worker=worker)
    except OSError:
        return None


def _start(directory: RunDirectory, environment: dict[str, str]) -> None:
    """Start the host and wait until it serves; an error that keeps it from that is raised here and left for others."""
    import_ahead("psycopg")  # while we wait for the host
    try:
        started = subprocess.run(
            [sys.executable, "-P", "-m", "pytest_lakebranch.host", str(directory.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            cwd="/",
            start_new_session=True,
            check=False,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise HostError(
            f"the host did not start within {START_SECONDS:.0f} s. What it said: {last_words(directory.log)}"
        ) from error
    if not started.stdout:
        raise HostError(
            f"the host could not be started (exit code {started.returncode}): "
            f"{started.stderr.decode(errors='replace').strip() or last_words(directory.log)}"
        )
    answer = json.loads(started.stdout)
    if "error" in answer:
        directory.note_failure(started.stdout)
    wire.value(answer)
