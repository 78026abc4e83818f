"""What the emulator does as time passes: tokens and branches expire, computes fall asleep; and what it limits."""

from __future__ import annotations

import sys
import threading
from typing import Any

import httpx
import psycopg
import pytest
from databricks.sdk import errors
from databricks.sdk.service.postgres import Branch, BranchSpec, FieldMask
from emulator_rigs import Emulated, emulated
from google.protobuf.duration_pb2 import Duration

from pytest_lakebranch.emulator.emulator import Options
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.providers.local.server import SUPERUSER
from pytest_lakebranch.state import PORT
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]


@pytest.fixture(scope="module")
def moving(emulator_home: Any) -> Any:
    """An emulator whose clock tests may move."""
    with emulated(emulator_home, Options(limits=Limits(active_computes=2, branches=6, unarchived_branches=5))) as made:
        yield made


def test_time_passes(moving: Emulated) -> None:
    """An hour later tokens are expired, for logins and for the API, and connections that stand go on."""
    branch = moving.branch().name
    principal = moving.client(1)
    assert principal.postgres.get_branch(branch).name == branch
    stale = principal.config.authenticate()
    token = moving.token(branch)
    with moving.connect(branch, password=token) as connection:
        assert moving.control("POST", "clock", {"advance": "3601s"}).status_code == 200
        assert connection.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        moving.connect(branch, password=token)
    answer = httpx.get(f"{moving.url}/api/2.0/postgres/projects", headers=stale)
    assert (answer.status_code, answer.json()["message"]) == (401, "Token is expired.")
    assert moving.count(branch) == 10
    moving.done(moving.w.postgres.delete_branch(branch, purge=True))


def test_idle_computes_are_suspended(moving: Emulated) -> None:
    """After their timeout, unless a transaction is open; the one of the default branch too."""
    branch = moving.branch().name
    with moving.connect(branch, autocommit=False) as connection:
        connection.execute("select 1")
        moving.control("POST", "clock", {"advance": "90000s"})
        assert moving.state(branch) == "ACTIVE"
        assert moving.state(moving.production) == "IDLE"
        connection.rollback()
        moving.control("POST", "clock", {"advance": "90000s"})
        assert moving.state(branch) == "IDLE"
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert moving.count(branch) == 10
    assert moving.count(moving.production) == 10
    moving.done(moving.w.postgres.delete_branch(branch, purge=True))


def test_branches_expire_and_are_purged(moving: Emulated) -> None:
    """At their time, not before; a softly deleted one after a week."""
    soon = moving.branch(ttl=Duration(seconds=600)).name
    soft = moving.branch().name
    moving.done(moving.w.postgres.delete_branch(soft))
    moving.control("POST", "clock", {"advance": "590s"})
    assert moving.count(soon) == 10
    moving.control("POST", "clock", {"advance": "11s"})
    with pytest.raises(errors.NotFound):
        moving.w.postgres.get_branch(soon)
    assert moving.w.postgres.get_branch(soft).status.current_state.value == "DELETED"
    with pytest.raises(errors.AlreadyExists):
        moving.branch(name=soft.split("/")[-1])
    moving.control("POST", "clock", {"advance": "604800s"})
    with pytest.raises(errors.NotFound):
        moving.w.postgres.get_branch(soft)


def test_computes_are_limited(moving: Emulated) -> None:
    """Beyond the limit a compute stays suspended and refuses logins, until another sleeps; the default's is free."""
    first, second, third = (moving.branch().name for _ in range(3))
    assert [moving.state(each) for each in (first, second, third)] == ["ACTIVE", "ACTIVE", "IDLE"]
    with pytest.raises(psycopg.OperationalError, match="limit of 2 concurrently active computes"):
        moving.connect(third)
    assert moving.count(moving.production) == 10
    moving.control("POST", "suspend", {"branch": first})
    assert moving.count(third) == 10
    fourth = moving.branch().name
    with pytest.raises(errors.BadRequest, match="limit of 5 unarchived branches") as caught:
        moving.branch()
    assert caught.value.error_code == "QUOTA_EXCEEDED"
    for each in (first, second, third, fourth):
        moving.done(moving.w.postgres.delete_branch(each, purge=True))


def test_nobody_who_connects_is_cut_off_by_sleep(moving: Emulated) -> None:
    """Also when the compute was found to be idle just before."""
    branch = moving.branch().name
    world = moving.emulator.world
    endpoint = world.endpoint("demo", branch.split("/")[-1], "primary")
    store = endpoint.branch.store
    with store._lock:  # so that whoever looks whether it is idle stops there
        clock = threading.Thread(target=moving.emulator.advance, args=(90_000,))
        clock.start()
        assert poll(lambda: _is_in(clock, "is_busy") or None, deadline=Deadline(10))
        directory = moving.emulator.services.endpoints.wake(endpoint)
        connection = psycopg.connect(host=directory, port=PORT, user=SUPERUSER, dbname="postgres", autocommit=True)
    clock.join()
    with connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert moving.state(branch) == "ACTIVE"
    moving.done(moving.w.postgres.delete_branch(branch, purge=True))


def _is_in(thread: threading.Thread, function: str) -> bool:
    """Whether a thread is inside of a function of this name."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name == function


def test_what_has_children_does_not_expire(moving: Emulated) -> None:
    """Neither when the child comes while the time is being set, nor the other way round."""
    api = moving.w.postgres
    parent = moving.branch().name
    soon = Branch(spec=BranchSpec(ttl=Duration(seconds=600)))
    moving.control("PATCH", "latencies", {"update_branch": "0.5", "delete_branch": "0.5"})
    changing = api.update_branch(parent, soon, FieldMask(["spec.ttl"]))
    child = moving.branch(parent).name
    with pytest.raises(Exception, match=r"BAD_REQUEST\] Cannot set an expiration time on a branch with children"):
        moving.done(changing)
    assert api.get_branch(parent).status.expire_time is None
    moving.done(api.delete_branch(child, purge=True))
    going = api.delete_branch(parent, purge=True)
    with pytest.raises(errors.ResourceConflict, match="reconciliation"):
        moving.branch(parent)
    moving.done(going)
    moving.control("PATCH", "latencies", {"update_branch": "0", "delete_branch": "0"})


def test_what_could_not_be_deleted_is_as_it_was(moving: Emulated) -> None:
    """A deletion that fails leaves a branch that can be forked, and deleted."""
    branch = moving.branch().name
    moving.control("POST", "faults", {"kind": "operation", "route": "delete_branch", "status": 500})
    with pytest.raises(Exception, match="operation failed"):
        moving.done(moving.w.postgres.delete_branch(branch, purge=True))
    assert moving.w.postgres.get_branch(branch).status.pending_state is None
    for each in (moving.branch(branch).name, branch):
        moving.done(moving.w.postgres.delete_branch(each, purge=True))
