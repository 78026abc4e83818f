"""Faults on purpose, as the official client bears them; and what latencies do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from databricks.sdk import errors
from databricks.sdk.service.postgres import Branch, BranchSpec
from emulator_rigs import Emulated
from google.protobuf.duration_pb2 import Duration

from pytest_lakebranch.emulator.addresses import Addresses
from pytest_lakebranch.emulator.clock import WorldTime
from pytest_lakebranch.emulator.operations import Operations, Work
from pytest_lakebranch.errors import BranchError, MachineError
from pytest_lakebranch.waiting import Clock, Deadline, poll

pytest_plugins = ["emulator_fixtures"]
pytestmark = pytest.mark.usefixtures("tidy")
FOREVER = Branch(spec=BranchSpec(no_expiry=True))
New = Callable[..., Emulated]


@pytest.fixture(autouse=True)
def nothing_goes_wrong_afterwards(lakebase: Emulated) -> Any:
    """The emulator is shared: faults and requests of one test are not the next one's."""
    lakebase.control("DELETE", "requests")
    yield
    lakebase.control("DELETE", "faults")
    lakebase.control("PATCH", "latencies", {"request": "0", "create_branch": "0", "login": "0"})


def calls(lakebase: Emulated, route: str) -> list[int]:
    """The status of each call of ``route`` so far."""
    served = lakebase.control("GET", "requests").json()["requests"]
    return [each["status"] for each in served if each["route"] == route]


RETRIED = {
    "429": {"status": 429},
    "429 with a time": {"status": 429, "retry_after": "1"},
    "503": {"status": 503},
    "500 of a kind": {"status": 500, "message": "Unexpected error"},
}


@pytest.mark.parametrize("case", RETRIED)
def test_the_client_tries_again(lakebase: Emulated, case: str) -> None:
    """What asks for patience, the SDK meets with patience."""
    fault = {"kind": "status", "route": "get_project", **RETRIED[case]}
    assert lakebase.control("POST", "faults", fault).status_code == 200
    assert lakebase.w.postgres.get_project(lakebase.project).project_id == "demo"
    assert calls(lakebase, "get_project") == [fault["status"], 200]
    assert lakebase.control("GET", "faults").json()["faults"][0]["met"] == 1


NOT_RETRIED: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "500": ({"status": 500}, errors.InternalError),
    "501": ({"status": 501}, errors.NotImplemented),
    "502": ({"status": 502}, errors.DatabricksError),
    "504": ({"status": 504}, errors.DeadlineExceeded),
    "409 ALREADY_EXISTS": ({"status": 409, "error_code": "ALREADY_EXISTS"}, errors.AlreadyExists),
    "409 without a code": ({"status": 409, "error_code": ""}, errors.ResourceConflict),
    "409 ABORTED": ({"status": 409, "error_code": "ABORTED"}, errors.Aborted),
    "400 QUOTA_EXCEEDED": ({"status": 400, "error_code": "QUOTA_EXCEEDED"}, errors.BadRequest),
    "404 ENDPOINT_NOT_FOUND": ({"status": 404, "error_code": "ENDPOINT_NOT_FOUND"}, errors.NotFound),
    "401": ({"status": 401}, errors.Unauthenticated),
    "403": ({"status": 403}, errors.PermissionDenied),
    "conflict": ({"kind": "conflict"}, errors.ResourceConflict),
    "reconciliation": ({"kind": "reconciliation"}, errors.ResourceConflict),
}


@pytest.mark.parametrize("case", NOT_RETRIED)
def test_the_client_gives_up(lakebase: Emulated, case: str) -> None:
    """Anything else is the right exception, at once."""
    fault, kind = NOT_RETRIED[case]
    lakebase.control("POST", "faults", {"kind": "status", "route": "get_project", **fault})
    with pytest.raises(kind) as caught:
        lakebase.w.postgres.get_project(lakebase.project)
    assert type(caught.value) is kind
    assert len(calls(lakebase, "get_project")) == 1


def test_a_dropped_connection(lakebase: Emulated) -> None:
    """Nothing was done, no answer comes; the SDK asks again."""
    lakebase.control("POST", "faults", {"kind": "drop", "route": "create_branch"})
    name = lakebase.branch(name="dropped").name
    assert calls(lakebase, "create_branch") == [0, 200]
    assert lakebase.w.postgres.get_branch(name).branch_id == "dropped"


def test_half_an_answer(lakebase: Emulated) -> None:
    """What was asked is done, and the client cannot know."""
    lakebase.control("POST", "faults", {"kind": "half", "route": "create_branch"})
    token = lakebase.emulator.options.identities[0].token
    url = f"{lakebase.url}/api/2.0/postgres/{lakebase.project}/branches?branch_id=half"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(url, json={"spec": {"no_expiry": True}}, headers={"Authorization": f"Bearer {token}"})
    assert lakebase.w.postgres.get_branch(f"{lakebase.project}/branches/half").branch_id == "half"


def test_a_create_that_lands_late(lakebase: Emulated) -> None:
    """The answer says that it failed, and the branch appears all the same."""
    fault = {"kind": "late", "route": "create_branch", "status": 504, "seconds": 0.2}
    lakebase.control("POST", "faults", fault)
    with pytest.raises(errors.DeadlineExceeded):
        lakebase.w.postgres.create_branch(lakebase.project, FOREVER, "late")
    find = lakebase.w.postgres.list_branches

    def landed() -> bool | None:
        return any(each.branch_id == "late" for each in find(lakebase.project)) or None

    assert poll(landed, deadline=Deadline(20), every=0.02)


def test_an_operation_that_fails(lakebase: Emulated) -> None:
    """The SDK's wait() tells the code and the message; no branch is left, and its name is free."""
    fault = {"kind": "operation", "route": "create_branch", "error_code": "ABORTED", "message": "no room"}
    lakebase.control("POST", "faults", fault)
    operation = lakebase.w.postgres.create_branch(lakebase.project, FOREVER, "failing")
    with pytest.raises(Exception, match=r"operation failed: \[ErrorCode\.ABORTED\] no room"):
        operation.wait()
    with pytest.raises(errors.NotFound):
        lakebase.w.postgres.get_branch(f"{lakebase.project}/branches/failing")
    assert lakebase.branch(name="failing").branch_id == "failing"


def test_an_operation_ends_whatever_happens() -> None:
    """Also when what failed cannot be undone."""

    def fail() -> None:
        raise ZeroDivisionError

    operations = Operations(WorldTime())
    name = operations.start("projects/x", "Branch", Work(commit=fail, undo=fail, run=fail))["name"]
    assert poll(lambda: operations.get(name)["done"] or None, deadline=Deadline(10))
    assert operations.get(name)["error"]["error_code"] == "INTERNAL_ERROR"
    operations.close()


def test_faults_are_counted_and_aimed(lakebase: Emulated) -> None:
    """By path, sparing the first calls, a number of times."""
    faults = {"kind": "status", "status": 500, "path": "branches/production$", "after": 1, "times": 2}
    lakebase.control("POST", "faults", [faults])
    seen = []
    for _ in range(5):
        lakebase.w.postgres.get_project(lakebase.project)
        try:
            lakebase.w.postgres.get_branch(lakebase.production)
            seen.append(200)
        except errors.InternalError:
            seen.append(500)
    assert seen == [200, 500, 500, 200, 200]


def test_a_fault_may_last(lakebase: Emulated) -> None:
    """With ``null`` for the number of times, until it is taken away."""
    lakebase.control("POST", "faults", {"kind": "status", "status": 500, "route": "get_project", "times": None})
    for _ in range(3):
        with pytest.raises(errors.InternalError):
            lakebase.w.postgres.get_project(lakebase.project)
    lakebase.control("DELETE", "faults")
    assert lakebase.w.postgres.get_project(lakebase.project).project_id == "demo"


def test_changes_in_one_branch_exclude_each_other(lakebase: Emulated) -> None:
    """While an operation is under way, another one is a conflict; so is deleting a branch that is being made."""
    lakebase.control("PATCH", "latencies", {"create_branch": "0.6", "create_endpoint": "0.6"})
    api = lakebase.w.postgres
    operation = api.create_branch(lakebase.project, FOREVER, "slow")
    with pytest.raises(errors.ResourceConflict, match="reconciliation"):
        api.delete_branch(f"{lakebase.project}/branches/slow", purge=True)
    found = api.get_branch(f"{lakebase.project}/branches/slow").status
    assert (found.current_state.value, found.pending_state.value) == ("INIT", "READY")
    assert lakebase.state(f"{lakebase.project}/branches/slow") == "INIT"
    name = lakebase.done(operation).name
    body = {"spec": {"endpoint_type": "ENDPOINT_TYPE_READ_ONLY"}}
    path = f"/api/2.0/postgres/{name}/endpoints"
    lakebase.w.api_client.do("POST", path, query={"endpoint_id": "ro"}, body=body)
    with pytest.raises(errors.ResourceConflict, match="conflicting operations in progress"):
        lakebase.w.api_client.do("POST", path, query={"endpoint_id": "rp"}, body=body)
    lakebase.control("PATCH", "latencies", {"create_endpoint": "0"})


def test_logins_are_refused_for_a_while(lakebase: Emulated) -> None:
    """On a new branch, or when told; then they succeed with the same token."""
    lakebase.control("PATCH", "latencies", {"login": "0.3"})
    branch = lakebase.branch().name
    token = lakebase.token(branch)
    with pytest.raises(psycopg.OperationalError, match="External authorization failed"):
        lakebase.connect(branch, password=token)

    def logged_in() -> psycopg.Connection[Any] | None:
        try:
            return lakebase.connect(branch, password=token)
        except psycopg.OperationalError:
            return None

    connection = poll(logged_in, deadline=Deadline(10), every=0.05)
    assert connection is not None
    lakebase.control("POST", "logins", {"branch": branch, "refuse": "3600s"})
    assert logged_in() is None
    assert connection.execute("select 1").fetchone() == (1,)
    connection.close()


def test_a_compute_sleeps_and_wakes(lakebase: Emulated) -> None:
    """Suspended when told: connections end, data stays, the next login wakes it."""
    branch = lakebase.branch().name
    with lakebase.connect(branch) as connection:
        connection.execute("insert into item values (50)")
        lakebase.control("POST", "suspend", {"branch": branch})
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
    assert lakebase.state(branch) == "IDLE"
    child = lakebase.branch(branch).name
    assert lakebase.state(branch) == "IDLE"
    assert lakebase.count(branch) == 11
    assert lakebase.state(branch) == "ACTIVE"
    assert lakebase.count(child) == 11


def test_a_server_that_died_is_started_again(lakebase: Emulated) -> None:
    """Also after kill -9, by its own recovery."""
    branch = lakebase.branch().name
    with lakebase.connect(branch) as connection:
        connection.execute("set synchronous_commit = on")
        connection.execute("insert into item values (60)")
    store = lakebase.emulator.world.branch("demo", branch.split("/")[-1]).store
    process = store.running().server.process  # asked once: the next answer may be the server that took its place
    process.kill()
    process.wait()
    assert lakebase.count(branch) == 11


def test_a_compute_that_cannot_be_woken_sleeps_on(lakebase: Emulated) -> None:
    """The login says why; the compute does not count among those that run."""
    branch = lakebase.branch().name
    store = lakebase.emulator.world.branch("demo", branch.split("/")[-1]).store
    lakebase.count(branch)
    lakebase.control("POST", "suspend", {"branch": branch})
    store.remove()
    with pytest.raises(psycopg.OperationalError, match="the compute could not be started"):
        lakebase.connect(branch)
    assert lakebase.state(branch) == "IDLE"


def test_what_is_removed_has_no_past(lakebase: Emulated) -> None:
    """Its states are let go once, and no new one is seen."""
    branch = lakebase.branch().name
    store = lakebase.emulator.world.branch("demo", branch.split("/")[-1]).store
    for number in (11, 12):
        with lakebase.connect(branch) as connection:
            connection.execute("insert into item values (%s)", [number])
        store.present(lakebase.emulator.world.time.now())
    assert len(store.moments) == 3
    store.remove()
    assert store.moments == []
    with pytest.raises(BranchError, match="is deleted"):
        store.present(lakebase.emulator.world.time.now())


def test_in_process_without_a_port(lakebase: Emulated) -> None:
    """The application is WSGI's: a client calls it directly."""
    token = lakebase.emulator.options.identities[0].token
    transport = httpx.WSGITransport(app=lakebase.emulator.application)
    with httpx.Client(
        transport=transport, base_url="http://emulator", headers={"Authorization": f"Bearer {token}"}
    ) as c:
        found = c.get("/api/2.0/postgres/projects").json()
        assert [each["name"] for each in found["projects"]] == [lakebase.project]
        lakebase.control("POST", "faults", {"kind": "drop", "route": "list_projects"})
        with pytest.raises(ConnectionResetError):
            c.get("/api/2.0/postgres/projects")


def test_one_address_for_all(new_emulator: New) -> None:
    """The way out where there is one loopback address: a login goes where its token was minted for."""
    found = new_emulator(addresses=Addresses(16543, "127.0.0.1"))
    branch = found.branch().name
    with found.connect(branch, port=16543) as connection:
        connection.execute("delete from item")
        assert connection.info.host == "127.0.0.1"
    token = found.token(found.production)
    with found.connect(branch, port=16543, password=token) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (10,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        found.connect(branch, port=16543, password="wrong")
    with pytest.raises(MachineError, match="--endpoint-port"):
        new_emulator(addresses=Addresses(16543, "127.0.0.1"))


def test_the_clock_is_a_parameter(new_emulator: New) -> None:
    """All times come from it."""
    found = new_emulator(clock=Clock(now=lambda: 2_000_000_000.0))
    assert found.branch(ttl=Duration(seconds=60)).status.expire_time.seconds == 2_000_000_060


def test_secrets_are_not_shown(lakebase: Emulated) -> None:
    """Neither in a repr nor in what is remembered of requests; everything listens on loopback only."""
    first = lakebase.emulator.options.identities[0]
    lakebase.connect(lakebase.production).close()
    told = repr(lakebase.emulator.options) + lakebase.control("GET", "requests").text + repr(lakebase.emulator.world)
    assert first.token is not None
    for each in lakebase.emulator.options.identities:
        for secret in (each.token, each.secret):
            assert secret is None or secret not in told
    token = lakebase.token(lakebase.production)
    assert token not in repr(lakebase.emulator.world) + repr(lakebase.emulator.world.tokens)
    listening = [each.laddr.ip for each in psutil.Process().net_connections("tcp") if each.status == "LISTEN"]
    assert lakebase.host(lakebase.production) in listening
    assert not [address for address in listening if not address.startswith("127.")]
