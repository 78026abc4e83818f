"""Opening a branch that another process started: on every rung, while it runs and after its server was killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from local_rigs import Rig, rig, run_sql

from pytest_lakebranch import kept
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.providers.local import branch_file
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.reopen import bringer
from pytest_lakebranch.state import State

pytest_plugins = ["local_fixtures"]
WORK = (
    "set synchronous_commit = on; drop table noise; update item set name = 'changed' where id = 1; "
    "create table made (x int); insert into made select generate_series(1, 5000); truncate saving"
)
LOOK = "select (select name from item where id = 1), (select count(*) from made), (select count(*) from saving)"


@pytest.fixture
def other(any_rung: Rig, local_home: Path, rung: str) -> Iterator[Rig]:
    """A second provider on the same state directory, as another process would have."""
    with rig(local_home, storage=rung) as made:
        yield made


def opened(other: Rig, compute: LocalCompute) -> LocalCompute:
    """A copy of the branch of ``compute``, by the provider ``other``, from what its directory says."""
    directory = compute.server.place.directory
    file = branch_file.read(directory)
    assert file is not None
    at, _ = other.provider.adopt("opening", bringer(directory, file))
    return other.start("opened", at)


def test_a_running_branch(any_rung: Rig, other: Rig) -> None:
    """The copy has the present; what is done in one is not seen in the other."""
    compute = any_rung.start()
    run_sql(compute, WORK)
    copy = opened(other, compute)
    assert run_sql(copy, LOOK) == [("changed", 5000, 0)]
    run_sql(copy, "drop table item")
    assert run_sql(compute, LOOK) == [("changed", 5000, 0)]


def test_a_branch_whose_server_was_killed(any_rung: Rig, other: Rig) -> None:
    """The copy is what the server left, recovered; dropped tables stay dropped; it opens twice."""
    compute = any_rung.start()
    run_sql(compute, "create database gone")
    run_sql(compute, WORK)
    run_sql(compute, "drop database gone")
    server = psutil.Process(compute.server.pid)
    processes = [server, *server.children()]
    os.kill(server.pid, signal.SIGKILL)
    psutil.wait_procs(processes, timeout=20)
    for _ in range(2):
        copy = opened(other, compute)
        assert run_sql(copy, LOOK) == [("changed", 5000, 0)]
        assert run_sql(copy, "select to_regclass('noise'), count(*) from pg_database where datname = 'gone'") == [
            (None, 0)
        ]
        copy.discard(disposable=True)


def test_a_branch_without_its_files(any_rung: Rig, other: Rig) -> None:
    """What is missing is named; nothing is left of the attempt."""
    compute = any_rung.start()
    compute.server.stop_at_once()
    place = compute.server.place
    (place.directory / "upper" / "global" if place.overlay else place.data / "global").joinpath(
        "pg_control"
    ).write_bytes(b"")
    with pytest.raises(BranchError, match="is damaged: its global/pg_control is missing or empty"):
        opened(other, compute)
    assert list((other.run / "frozen").iterdir()) == []


def test_a_kept_branch(any_rung: Rig, other: Rig, rung: str) -> None:
    """It outlives its provider; opened, it has what was written, rows of unlogged tables included; it opens twice."""
    compute = any_rung.start()
    run_sql(compute, f"{WORK}; create unlogged table fleeting as select 1 as x")
    now = time.time()
    note = Kept("r" * 32, "b", "test_x", "gw0", "failed", "/", now, now + 60, any_rung.settings.to_json())
    left = compute.keep(note)
    state = State(any_rung.home)
    (directory,) = kept.directories(state)
    try:
        assert kept.read(directory) == replace(left, settings=json.loads(json.dumps(left.settings)))
        assert left.bytes > 0
        assert kept.pinned(state) == ({Path(left.stands_on)} if rung == "overlay" else set())
        any_rung.provider.close()
        file = branch_file.read(directory)
        assert file is not None
        for _ in range(2):
            at, _ = other.provider.adopt("opening", bringer(directory, file))
            copy = other.start("opened", at)
            assert run_sql(copy, LOOK) == [("changed", 5000, 0)]
            assert run_sql(copy, "select to_regclass('noise'), (select x from fleeting)") == [(None, 1)]
            copy.discard(disposable=True)
        with kept.in_use(directory) as there:
            assert there
            assert not kept.remove(directory)
    finally:
        assert kept.remove(directory)
    assert kept.directories(state) == []


def test_a_branch_that_cannot_be_kept(any_rung: Rig) -> None:
    """The error says why, and neither the branch nor half of a kept one is left."""
    compute = any_rung.start()
    now = time.time()
    note = Kept("r" * 32, "b", "test_x", "gw0", "failed", "/", now, now + 60, any_rung.settings.to_json())
    place = kept.place(State(any_rung.home), note.run, compute.name)
    place.write_text("in the way")
    try:
        with pytest.raises(BranchError, match="keeping b failed"):
            compute.keep(note)
    finally:
        place.unlink()
    assert kept.directories(State(any_rung.home)) == []
    compute.discard()
