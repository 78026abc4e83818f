"""The Lakebase provider and what the service allows: learnt, and lived with."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from emulator_rigs import Emulated
from lakebase_rigs import cloud, ours, sql

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import running
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers.lakebase.branches import Branches, Pace
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]


def test_the_limit_of_active_computes_is_learnt(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """It is a limit of branches to us, since none is of use that cannot be logged in to: at the deadline it is said."""
    emulated = new_emulator(limits=Limits(active_computes=1))
    says = r"lets no more computes be active|no room .*within 2 s.*53300: branch b2 .* limit of 1 "
    with cloud(emulated, tmp_path, deadline="2s") as here:
        first = here.start("b1")
        with pytest.raises(BranchError, match=says):
            here.start("b2")
        assert here.provider._project.budget._learnt == 1
        first.discard()
        here.start("b3")
    assert poll(lambda: None if ours(emulated) else True, deadline=Deadline(5)), ours(emulated)


def test_a_spare_makes_room_for_who_waits(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """Where it holds the last compute that may be active, a fork gets a branch all the same."""
    emulated = new_emulator(limits=Limits(active_computes=2))
    plan = Plan((), ())
    with cloud(emulated, tmp_path, deadline="60s") as here, running(here.engine()) as engine:
        engine.bases.request("gw0", plan)
        base = engine.bases.key(plan)
        for number in range(2):
            grant = engine.lease(Request("gw0", f"t{number}", "test", base))
            sql(grant.endpoint, "create table written ()")
            engine.release(grant.lease)
        worker = engine.lease(Request("gw0", "gw0", "worker", base))
        sql(worker.endpoint, "create table seed ()")
        for number in range(2):
            child = engine.lease(Request("gw0", f"c{number}", "test", base, parent=worker.lease))
            assert sql(child.endpoint, "select count(*) from seed") == [(0,)]
            engine.release(child.lease)


def test_the_pace_is_learnt_in_both_directions() -> None:
    """A service that has become quicker is looked at earlier, and none is waited for longer than two seconds."""
    pace = Pace()
    pace.learn(30.0, at_once=False)
    assert pace.first_look == 2.0
    for _ in range(40):
        pace.learn(pace.first_look, at_once=True)
    assert pace.first_look < 0.5


def test_a_limit_is_learnt_once() -> None:
    """By however many creates it is met at the same time."""
    branches = Branches(None, None, 3600.0, 86400.0)  # type: ignore[arg-type]
    together = threading.Barrier(8)

    def create(ttl: float) -> None:
        if ttl > 2000:
            together.wait(5)
            raise CloudError("expiration time exceeds the maximum expiration time")

    threads = [threading.Thread(target=branches._within_longest, args=(3600.0, create)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    branches._working.shutdown()
    assert branches.ttl == 1800
