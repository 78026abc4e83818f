"""What deletes the branches of dead runs: how far it goes, when it ends, and what it says of the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulator_rigs import Emulated
from lakebase_rigs import Cloud, calls, cloud, machine, ours, troubled_cloud

from pytest_lakebranch import cloud_record
from pytest_lakebranch.branches.reaper import left_in_cloud
from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.providers.lakebase.names import Name
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.providers.lakebase.reaper import reap
from pytest_lakebranch.providers.lakebase.sweep import AT_A_TIME, Limit
from pytest_lakebranch.state import ALIVE, State, locked_if_free
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
DEAD = "d" * 8
SOON = time.time() + 86400
UNAVAILABLE = {"route": "delete_branch", "kind": "status", "status": 503, "times": None}


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider on the shared emulator; what a test leaves on purpose is cleared."""
    with troubled_cloud(lakebase, tmp_path) as made:
        yield made
    lakebase.clear()


@pytest.fixture
def state(tmp_path: Path) -> State:
    """A state directory without any run."""
    return State(tmp_path / "home").ensure()


def noted(state: State, project: Project, run: str) -> Path:
    """The directory of a run of ours, which is dead as long as nobody locks it."""
    directory = state.runs / run
    directory.mkdir()
    (directory / ALIVE).touch()
    CloudRecord(project.api.client.host, project.api.project, run, project.owner, SOON).write(directory)
    return directory


def made(here: Cloud, run: str, tags: list[str], owner: str = "") -> list[str]:
    """Branches of a run there: their ids."""
    names = [str(Name(owner or here.provider._project.owner, run, tag, SOON)) for tag in tags]
    for name in names:
        here.emulated.branch(name=name)
    return names


def test_a_slow_reap_ends_with_its_run(here: Cloud, state: State) -> None:
    """What it has not begun by then it does not begin, no thread of it keeps the process, and the next run goes on."""
    directory = noted(state, here.provider._project, DEAD)
    made(here, DEAD, [f"b{number}" for number in range(AT_A_TIME + 3)])
    here.emulated.control("PATCH", "latencies", {"delete_branch": "3"}).raise_for_status()
    try:
        before = calls(here.emulated).count("delete_branch")
        here.provider.reap(state)
        reaping = here.provider._reaping
        assert reaping is not None
        begun = lambda: calls(here.emulated).count("delete_branch") - before  # noqa: E731
        assert poll(lambda: True if begun() == AT_A_TIME else None, deadline=Deadline(10))
        assert [str(error) for error in reaping.end(0)] == ["of dead runs: not done after 0 s"]
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("lakebranch-")]
        assert all(thread.daemon for thread in threads if thread.name in ("lakebranch-sweep", "lakebranch-reaper"))
        reaping._thread.join(60)
        with pytest.raises(BaseExceptionGroup) as caught:
            here.provider.close()
        (error,) = caught.value.exceptions
    finally:
        here.emulated.control("PATCH", "latencies", {"delete_branch": "0"}).raise_for_status()
    assert str(error).startswith("of dead runs: 3 branches could not be deleted: deleting ")
    assert str(error).count(": not tried") == 3
    assert (begun(), len(ours(here.emulated))) == (AT_A_TIME, 3)
    assert cloud_record.read(directory) is not None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_service_that_deletes_nothing_now_is_not_asked_for_each(here: Cloud, status: int) -> None:
    """Those that were begun are tried as long as a call may take, and no others."""
    project = here.provider._project
    made(here, DEAD, [f"b{number}" for number in range(AT_A_TIME + 3)])
    here.emulated.emulator.faults.add({**UNAVAILABLE, "status": status})
    project.api.patience = 0.5
    with pytest.raises(BranchError) as caught:
        project.sweep(project.branches(), lambda name, _: name.run == DEAD)
    assert str(caught.value).count(": not tried") == 3
    here.emulated.emulator.faults.clear()
    here.emulated.emulator.faults.add(
        {"route": "delete_branch", "kind": "reconciliation", "times": None, "path": "-b0-"}
    )
    with pytest.raises(BranchError, match="reconciliation"):
        project.sweep(project.branches(), lambda name, _: name.run == DEAD)
    assert len(ours(here.emulated)) == 1


def test_a_sweep_ends_in_time(here: Cloud) -> None:
    """Each branch has what is left of it; when it is over, none is asked for."""
    project = here.provider._project
    made(here, DEAD, ["b1"])
    here.emulated.emulator.faults.add(UNAVAILABLE)
    with pytest.raises(BranchError, match="503"):
        project.sweep(project.branches(), lambda name, _: name.run == DEAD, Limit(Deadline(0.5)))
    before = calls(here.emulated).count("delete_branch")
    with pytest.raises(BranchError, match="not tried"):
        project.sweep(project.branches(), lambda name, _: name.run == DEAD, Limit(Deadline(0)))
    assert calls(here.emulated).count("delete_branch") == before


def test_a_reap_that_failed_is_told(here: Cloud, state: State) -> None:
    """When the run ends, and as what it is: the run itself has left nothing."""
    directory = noted(state, here.provider._project, DEAD)
    made(here, DEAD, ["b1"])
    here.emulated.emulator.faults.add({**UNAVAILABLE, "status": 403})
    here.provider.reap(state)
    with pytest.raises(BaseExceptionGroup, match="not looked after") as caught:
        here.provider.close()
    (error,) = caught.value.exceptions
    assert str(error).startswith("of dead runs: deleting projects/demo/branches/lakebranch-")
    assert "403 PERMISSION_DENIED" in str(error)
    assert cloud_record.read(here.home) is None
    assert cloud_record.read(directory) is not None


def test_another_identity_forgets_nothing(here: Cloud, state: State, tmp_path: Path) -> None:
    """What a dead run left is deleted by its own identity only; until then it is known, whoever reaps."""
    directory = noted(state, here.provider._project, DEAD)
    left = made(here, DEAD, ["b1"])
    (tmp_path / "other").mkdir()
    with cloud(here.emulated, tmp_path / "other", run="other", login=machine(here.emulated)) as other:
        for owned in (False, True):
            assert reap(other.provider._project, state, owned=owned) == []
    assert cloud_record.read(directory) is not None
    assert list(left_in_cloud(state)) == [DEAD]
    assert [path.rpartition("/")[2] for path in reap(here.provider._project, state)] == left
    assert cloud_record.read(directory) is None


def test_an_owners_templates_are_for_others_too(lakebase: Emulated, state: State, tmp_path: Path) -> None:
    """Those that are kept stay until their death date, after which they go at once."""
    ahead = [0.0]
    with cloud(lakebase, tmp_path, owner="pr-9", wall=lambda: time.time() + ahead[0]) as here:
        project = here.provider._project
        gone, template = made(here, DEAD, ["b1", "k012345678001"])
        found = reap(project, state, owned=True)
        assert [path.rpartition("/")[2] for path in found] == [gone]
        project.api.now = lambda: SOON + 60
        found = reap(project, state, owned=True)
        assert [path.rpartition("/")[2] for path in found] == [template]


def test_a_run_that_starts_meanwhile_keeps_its_branches(
    here: Cloud, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who deletes all that an owner has looks at the branches first, and then at who lives."""
    project, gone = here.provider._project, made(here, DEAD, ["b1"])
    listed = type(project.api).branches
    lock = []

    def slowly(api, *given):  # type: ignore[no-untyped-def]
        if not lock:
            lock.append(locked_if_free(noted(state, project, "e" * 8) / ALIVE))
            assert lock[0].__enter__()
            made(here, "e" * 8, ["b1"])
        return listed(api, *given)

    monkeypatch.setattr(type(project.api), "branches", slowly)
    try:
        found = reap(project, state, owned=True)
    finally:
        lock[0].__exit__(None, None, None)
    assert [path.rpartition("/")[2] for path in found] == gone
