"""Branches on their way at a service whose answers are written down: what comes late, half, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from rest_rigs import Script, Time

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers._budget import Budget
from pytest_lakebranch.providers._rest import Client
from pytest_lakebranch.providers.lakebase.api import Api
from pytest_lakebranch.providers.lakebase.arrival import INQUIRE_EVERY
from pytest_lakebranch.providers.lakebase.branches import Branches
from pytest_lakebranch.providers.lakebase.compute import line
from pytest_lakebranch.providers.lakebase.names import Guard, Name
from pytest_lakebranch.waiting import Deadline

pytest_plugins = ["rest_fixtures"]
PROJECT, OWNER = "projects/shop", "ada012345"


def ok(**body: Any) -> tuple[int, dict[str, str], Any]:
    """A success."""
    return 200, {}, body


def refused(status: int, code: str = "") -> tuple[int, dict[str, str], Any]:
    """A failure."""
    return status, {}, {"error_code": code, "message": "as it is written"}


STATUS = {"endpoint_type": "ENDPOINT_TYPE_READ_WRITE", "current_state": "ACTIVE", "hosts": {"host": "h"}}
THERE = ok(endpoints=[{"name": "e", "status": STATUS}])
STARTING = ok(endpoints=[{"name": "e", "status": {**STATUS, "current_state": "INIT"}}])
NONE = ok(endpoints=[])
OPERATION = ok(name="o", done=False)


@pytest.fixture
def branches(client: Client, time: Time) -> Iterator[Branches]:
    """Branches there; everybody is let in."""
    api = Api(client, PROJECT, 60.0, Guard(PROJECT, OWNER), now=lambda: 0.0)
    made = Branches(api, Budget(5, time.clock), 3600.0, 86400.0, time.clock)
    yield made
    made.close()


def create(branches: Branches, time: Time) -> str:
    """Make one; its path."""
    ids = (str(Name(OWNER, "0" * 8, f"b{number}", 86400.0)) for number in count(1))
    return branches.create(ids, dict, Deadline(60, time.clock), lambda path, _: path)[0]


def test_a_branch_without_an_endpoint_gets_one(branches: Branches, script: Script, time: Time) -> None:
    """When it is ready and still has none."""
    script.answers = [
        OPERATION,
        *[NONE] * INQUIRE_EVERY,
        ok(name="o", done=True),
        ok(status={"current_state": "READY"}),
        OPERATION,
        THERE,
    ]
    path = create(branches, time)
    (method, where, _, body) = script.seen[-2]
    assert (method, where) == ("POST", f"/api/2.0/postgres/{path}/endpoints?endpoint_id=primary")
    assert json.loads(body)["spec"]["endpoint_type"] == "ENDPOINT_TYPE_READ_WRITE"


def test_one_that_was_adopted_may_fail(branches: Branches, script: Script, time: Time) -> None:
    """Nobody knows its operation: it is seen that it is not there any more, and another one is made."""
    script.answers = [
        refused(504),
        refused(409, "ALREADY_EXISTS"),
        *[refused(404)] * INQUIRE_EVERY,
        refused(404),
        OPERATION,
        THERE,
    ]
    assert "-b2-" in create(branches, time)


def test_how_far_it_was_is_said(branches: Branches, script: Script, time: Time) -> None:
    """At the deadline; or why its operation failed."""
    script.answers = [OPERATION]
    script.answers += ([STARTING] * INQUIRE_EVERY + [OPERATION]) * 20
    with pytest.raises(
        BranchError, match=r"creating branch .* was not there after 60 s: its endpoint is INIT\. .*lakebranch_deadline"
    ):
        create(branches, time)
    script.answers = [OPERATION, *[STARTING] * INQUIRE_EVERY]
    script.answers += [ok(name="o", error={"error_code": "BAD_REQUEST", "message": "no such zone"})]
    with pytest.raises(CloudError, match=r"creating branch .*: BAD_REQUEST: no such zone"):
        create(branches, time)


def test_all_that_a_failed_operation_says_is_told(branches: Branches, time: Time) -> None:
    """As of a call that failed: the request's id, and what to do."""
    error = {"error_code": "QUOTA_EXCEEDED", "message": "too many", "details": [{"request_id": "r-7"}]}
    with pytest.raises(CloudError, match=r"^x: QUOTA_EXCEEDED: too many\. Request id: r-7\. Delete branches"):
        branches.api.finish(lambda: {"name": "o", "error": error}, "x", Deadline(60, time.clock))


def test_an_operation_that_does_not_end(branches: Branches, script: Script, time: Time) -> None:
    """It is said how long it was waited for, and what to do."""
    script.answers = [OPERATION] * 100
    with pytest.raises(BranchError, match=r"x: not done after 60 s\. .*try again later"):
        branches.api.finish(lambda: {"name": "o"}, "x", Deadline(60, time.clock))


@pytest.mark.parametrize(
    ("error", "says"),
    [(OSError(), "OSError"), (OSError("\n"), "OSError"), (OSError("connection failed:\n  no route \n"), "no route")],
)
def test_the_last_line_of_an_error(error: OSError, says: str) -> None:
    """Also of one that says nothing: then it is its kind."""
    assert line(error, -1) == says
