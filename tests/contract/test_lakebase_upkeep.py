"""What is done beside the tests of a run on Lakebase: it is in nobody's way, and ends with the run, not before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulator_rigs import Emulated
from lakebase_rigs import Cloud, calls, cloud, ours

from pytest_lakebranch.providers.lakebase import upkeep
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute
from pytest_lakebranch.providers.lakebase.upkeep import Upkeep
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider on the shared emulator; then nothing may be left."""
    with cloud(lakebase, tmp_path) as made:
        yield made
    assert poll(lambda: None if ours(lakebase) else True, deadline=Deadline(5)), ours(lakebase)


def count(here: Cloud, route: str) -> int:
    """How often a route was called."""
    return calls(here.emulated).count(route)


def test_a_resize_is_in_nobodys_way(here: Cloud) -> None:
    """Branches are deleted while others' endpoints become smaller; those that wait for their turn are not asked to when
    they are deleted, or the run is over.
    """
    doomed = [here.start(f"b{number}") for number in range(4)]
    before = count(here, "update_endpoint")
    here.emulated.control("PATCH", "latencies", {"update_endpoint": "3"}).raise_for_status()
    try:
        here.resize()
        assert poll(lambda: True if count(here, "update_endpoint") == before + 2 else None, deadline=Deadline(10))
        doomed[2].discard()
        gone = lambda: doomed[2].path.rpartition("/")[2] not in ours(here.emulated)  # noqa: E731
        assert poll(lambda: gone() or None, deadline=Deadline(10))
        assert count(here, "update_endpoint") == before + 2
        here.provider.close()
    finally:
        here.emulated.control("PATCH", "latencies", {"update_endpoint": "0"}).raise_for_status()
    assert count(here, "update_endpoint") == before + 2


def test_a_template_that_goes_is_not_looked_after(here: Cloud) -> None:
    """As any other branch that is being deleted."""
    at = here.provider.seal(here.provider.build("b0", None, key="0" * 16), "0" * 16)
    assert at.location in here.provider._upkeep._terms
    here.provider.close()
    assert here.provider._upkeep._terms == {}


def test_one_look_that_fails_is_not_the_last(here: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told until one goes well."""
    monkeypatch.setattr(upkeep, "LOOK_SECONDS", 0.01)
    looks, go_on = [0], threading.Event()

    def alive() -> list[LakebaseCompute]:
        looks[0] += 1
        if looks[0] < 3:
            raise RuntimeError("can't start new thread")
        go_on.wait(30)
        return []

    made = Upkeep(here.provider._branches, alive, time.time)
    try:
        assert poll(lambda: True if looks[0] == 3 else None, deadline=Deadline(10))
        assert [str(trouble) for trouble in made.troubles] == ["can't start new thread"]
        go_on.set()
        assert poll(lambda: None if made.troubles else True, deadline=Deadline(10))
    finally:
        go_on.set()
        made.close()


def test_a_deletion_for_which_there_is_no_thread(here: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done once, when there is one, and given back to the budget once."""
    compute, other = here.start("b1"), here.start("b2")
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("lakebranch-delete"):
            raise RuntimeError("can't start new thread")
        start(thread)

    before = count(here, "delete_branch")
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", refuse)
        compute.discard()
    assert (count(here, "delete_branch"), here.provider._project.budget._taken) == (before, 2)
    other.discard()
    assert poll(lambda: None if ours(here.emulated) else True, deadline=Deadline(10))
    here.provider.close()
    assert (count(here, "delete_branch"), here.provider._project.budget._taken) == (before + 2, 0)
