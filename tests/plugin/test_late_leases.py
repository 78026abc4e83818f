"""Leases that come too late: the worker has died before the answer, or the run is ending when it asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.config import resolve
from pytest_lakebranch.errors import HostError
from pytest_lakebranch.host.client import HostClient, connect, connect_or_start
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.ledger import entries
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.state import State
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import SOON

DIES = """
import os, signal, sys, time
from dataclasses import asdict
from pathlib import Path
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.host import wire
from pytest_lakebranch.host.client import HostClient
from pytest_lakebranch.host.run_directory import RunDirectory

run, sockets, key, forks = sys.argv[1:]
client = HostClient(RunDirectory(Path(run), Path(sockets)), worker="gw0")
child = os.fork() if forks else 0
if forks and not child:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
late = asdict(Request("gw0", "test_late", "test", key, disposable=True))
wire.send(client._stream, {"call": "lease", "arguments": late})
os.kill(os.getpid(), signal.SIGKILL)
"""
"""A worker that dies right after it has asked; with ``forks`` it leaves a child that holds its line open."""


@pytest.fixture
def directory(shared_home: Path) -> RunDirectory:
    """Where a run is."""
    return RunDirectory.of(State.at(str(shared_home)).ensure(), uuid.uuid4().hex)


@pytest.fixture
def main(directory: RunDirectory, shared_home: Path, tmp_path: Path) -> Iterator[HostClient]:
    """The controller's line to the host of a run, which it ends."""
    settings = resolve(options={"home": str(shared_home)}, environ={}, ini={}, root=tmp_path)
    me = Identity.of(os.getpid())
    client = connect_or_start(directory, worker="main", settings=settings, controller=me, workers=1)
    yield client
    if not client.broken:
        client.finish()


def ask(key: str) -> Request:
    """For a branch that nobody else gets."""
    return Request("main", "test_it", "test", key, disposable=True)


@pytest.mark.parametrize("forks", ["", "forks"])
def test_the_worker_died_before_the_answer(main: HostClient, directory: RunDirectory, forks: str) -> None:
    """The branch that it would have got is taken back at once, also while a child of it holds the line open."""
    key, _, _ = main.base(Plan((), ()))
    held = [main.lease(ask(key)) for _ in range(3)]  # no spare is left: the next one has to wait
    words = [sys.executable, "-c", DIES, str(directory.path), str(directory.sockets), key, forks]
    died = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert died.stdout is not None
    child = int(died.stdout.readline())
    died.stdout.close()
    assert died.wait() == -signal.SIGKILL

    def story() -> list[str]:
        found = list(entries(directory.ledger))
        late = {entry["lease"] for entry in found if entry.get("test") == "test_late"}
        return [entry["event"] for entry in found if entry.get("lease") in late]

    assert poll(lambda: True if story() == ["lease", "release"] else None, deadline=Deadline(SOON)), story()
    if child:
        os.kill(child, signal.SIGKILL)
    for grant in held:
        main.release(grant.lease)
    (late,) = (lease for lease in main.finish().leases if lease.test == "test_late")
    assert late.end is not None
    assert late.end.reason == "gw0 ended without returning it"


def test_the_run_is_over(main: HostClient, directory: RunDirectory) -> None:
    """Who asks then is told that the host is gone; nobody can call it any more, and it leaves nothing."""
    key, _, _ = main.base(Plan((), ()))
    other = connect(directory, worker="gw0")
    main.finish()
    with pytest.raises(HostError, match="the host of this run is gone"):
        other.lease(ask(key))
    other.close()
    with pytest.raises(OSError, match="No such file"):
        connect(directory, worker="gw1")
    assert not directory.path.exists()


def test_the_run_is_ending(main: HostClient, directory: RunDirectory) -> None:
    """Workers that ask all the time while the host ends get a branch or a refusal, never silence."""
    key, _, _ = main.base(Plan((), ()))
    words = [sys.executable, "-c", ASKS, str(directory.path), str(directory.sockets), key]
    asking = [subprocess.Popen([*words, f"gw{number}"], stdout=subprocess.PIPE, text=True) for number in range(4)]
    for one in asking:
        assert one.stdout is not None
        assert one.stdout.readline() == "asking\n"
    main.finish()
    said = [json.loads(one.communicate(timeout=SOON)[0]) for one in asking]
    assert all("the run is ending" in text or "the host of this run is gone" in text for text in said), said


ASKS = """
import json, sys
from pathlib import Path
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.host.client import connect
from pytest_lakebranch.host.run_directory import RunDirectory

run, sockets, key, worker = sys.argv[1:]
client = connect(RunDirectory(Path(run), Path(sockets)), worker=worker)
said = False
try:
    while True:
        grant = client.lease(Request(worker, "test_it", "test", key, disposable=True))
        if not said:
            said = print("asking", flush=True) is None
        client.release(grant.lease)
except LakebranchError as error:
    print(json.dumps(str(error)))
"""
