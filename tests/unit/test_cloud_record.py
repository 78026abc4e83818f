"""What runs note of their branches in a cloud, and when nobody needs it any more."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.branches.reaper import due, left_in_cloud, reap
from pytest_lakebranch.cloud_record import CloudRecord, read
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.state import ALIVE, CLOUD_RECORD, State

RUN = "0123456789abcdef"
OWNER = "ada0a1b2c"
LATER = time.time() + 3600


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory with a dead run."""
    made = State(tmp_path / "home").ensure()
    (made.runs / RUN).mkdir()
    (made.runs / RUN / ALIVE).touch()
    return made


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_it_is_read_as_it_was_written(state: State) -> None:
    """With what was kept."""
    record = CloudRecord("https://a", "projects/shop", "01234567", OWNER, LATER).keeping("projects/shop/branches/x")
    record.write(state.runs / RUN)
    assert read(state.runs / RUN) == record


def test_a_run_that_may_have_branches_stays(state: State, port: int) -> None:
    """Until they are gone, or anybody deletes them: then its directory goes."""
    for host in ("https://127.0.0.2.example", f"http://127.0.0.1:{port}"):
        CloudRecord(host, "projects/demo", "01234567", OWNER, LATER).write(state.runs / RUN)
        found = reap(state)
        assert found.runs == []
        assert f"its branches in projects/demo at {host} are not deleted yet" in found.left[RUN]
        assert found.left == left_in_cloud(state) == due(state).left
    CloudRecord("https://a", "projects/demo", "01234567", OWNER, time.time() - 1).write(state.runs / RUN)
    assert left_in_cloud(state) == {}
    assert reap(state).runs == [RUN]


def test_an_emulator_that_is_gone_has_no_branches(state: State) -> None:
    """On this machine it is certain: nobody listens at its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    CloudRecord(f"http://127.0.0.1:{port}", "projects/demo", "01234567", OWNER, LATER).write(state.runs / RUN)
    assert reap(state).runs == [RUN]


def test_one_that_cannot_be_read_counts_for_a_while(state: State) -> None:
    """Nobody knows then what there is to delete."""
    (state.runs / RUN / CLOUD_RECORD).write_text("{")
    assert list(left_in_cloud(state)) == [RUN]


@pytest.mark.parametrize("left", [True, False])
def test_a_run_that_left_branches_behind_keeps_its_record(state: State, tmp_path: Path, left: bool) -> None:
    """So that the reaper finds them; any other leaves nothing."""
    if left:
        CloudRecord("https://a", "projects/demo", "01234567", OWNER, LATER).write(state.runs / RUN)
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    RunDirectory(state.runs / RUN, sockets).remove()
    assert not sockets.exists()
    assert (state.runs / RUN).exists() is left
