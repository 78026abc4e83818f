"""What the emulator refuses, as the official client sees it: its own right exception for each case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from databricks.sdk import errors
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.service import postgres
from databricks.sdk.service.postgres import Branch, BranchSpec, Endpoint, EndpointSpec, EndpointType
from emulator_rigs import Emulated
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
pytestmark = pytest.mark.usefixtures("tidy")
FOREVER = Branch(spec=BranchSpec(no_expiry=True))
READ_WRITE = Endpoint(spec=EndpointSpec(endpoint_type=EndpointType.ENDPOINT_TYPE_READ_WRITE))
READ_ONLY = Endpoint(spec=EndpointSpec(endpoint_type=EndpointType.ENDPOINT_TYPE_READ_ONLY))
Act = Callable[[Emulated, postgres.PostgresAPI], Any]


def span(seconds: int) -> Duration:
    """A duration."""
    return Duration(seconds=seconds)


def create(name: str = "x", parent: str = "projects/demo", **spec: Any) -> Act:
    """Creating a branch."""
    return lambda _, api: api.create_branch(parent, Branch(spec=BranchSpec(**spec)), name)


def update(mask: str, name: str = "projects/demo/branches/production", **spec: Any) -> Act:
    """Changing a branch."""
    return lambda _, api: api.update_branch(name, Branch(spec=BranchSpec(**spec)), FieldMask([mask]))


def raw(method: str, path: str, body: Any = None) -> Act:
    """A call that the SDK has no method for."""
    return lambda lakebase, _: lakebase.w.api_client.do(method, f"/api/2.0/postgres/{path}", body=body)


def sized(**spec: Any) -> Act:
    """Adding an endpoint with a size."""
    wanted = Endpoint(spec=EndpointSpec(endpoint_type=EndpointType.ENDPOINT_TYPE_READ_ONLY, **spec))
    return lambda _, api: api.create_endpoint("projects/demo/branches/production", wanted, "sized")


def credential(**how: Any) -> Act:
    """A credential for the default branch."""
    endpoint = "projects/demo/branches/production/endpoints/primary"
    return lambda _, api: api.generate_database_credential(**{"endpoint": endpoint, **how})


PRODUCTION = "projects/demo/branches/production"
REFUSED: dict[str, tuple[Act, type[Exception], str]] = {
    "no such project": (create(parent="projects/none", no_expiry=True), errors.NotFound, "project id not found"),
    "no such branch": (lambda _, api: api.get_branch("projects/demo/branches/none"), errors.NotFound, "branch id not"),
    "project before branch": (lambda _, api: api.get_branch("projects/no/branches/no"), errors.NotFound, "project id"),
    "no such endpoint": (lambda _, api: api.get_endpoint(f"{PRODUCTION}/endpoints/no"), errors.NotFound, "endpoint id"),
    "no such role": (lambda _, api: api.get_role(f"{PRODUCTION}/roles/none"), errors.NotFound, "role id not found"),
    "no such database": (lambda _, api: api.get_database(f"{PRODUCTION}/databases/n"), errors.NotFound, "database id"),
    "no such operation": (lambda _, api: api.get_operation(f"{PRODUCTION}/operations/x"), errors.NotFound, "operation"),
    "bad path": (raw("GET", "projects/demo/twigs"), errors.NotFound, "resource not found"),
    "source by uid": (create(source_branch="0b9e", no_expiry=True), errors.NotFound, "branch id not found"),
    "branch twice": (create("production", no_expiry=True), errors.AlreadyExists, "branch with such id already exists"),
    "project twice": (
        lambda _, api: api.create_project(postgres.Project(), "demo"),
        errors.AlreadyExists,
        "project with such id already exists",
    ),
    "endpoint twice": (
        lambda _, api: api.create_endpoint(PRODUCTION, READ_WRITE, "primary"),
        errors.AlreadyExists,
        "endpoint with such id already exists",
    ),
    "two that write": (
        lambda _, api: api.create_endpoint(PRODUCTION, READ_WRITE, "second"),
        errors.BadRequest,
        "already has a read-write endpoint",
    ),
    "no id": (create("", no_expiry=True), errors.InvalidParameterValue, "Field 'branch_id' is required"),
    "capital": (create("Pr-17", no_expiry=True), errors.InvalidParameterValue, "must match pattern"),
    "hyphen at the end": (create("pr-", no_expiry=True), errors.InvalidParameterValue, "must match pattern"),
    "64 characters": (create("a" * 64, no_expiry=True), errors.InvalidParameterValue, "must match pattern"),
    "no expiration": (create(), errors.InvalidParameterValue, "One of expire_time, ttl, or no_expiry must be provided"),
    "two expirations": (create(ttl=span(60), no_expiry=True), errors.InvalidParameterValue, "Only one of"),
    "no_expiry false": (create(no_expiry=False), errors.InvalidParameterValue, "should be set to true"),
    "time without seconds": (
        raw("POST", "projects/demo/branches?branch_id=x", {"spec": {"expire_time": "2099-01-01T00:00Z"}}),
        errors.InvalidParameterValue,
        "a timestamp such as",
    ),
    "time without colons": (
        raw("POST", "projects/demo/branches?branch_id=x", {"spec": {"expire_time": "20990101T000000Z"}}),
        errors.InvalidParameterValue,
        "a timestamp such as",
    ),
    "expired at birth": (create(ttl=span(0)), errors.InvalidParameterValue, "must be in the future"),
    "ttl above the cap": (
        create(ttl=span(31 * 86400)),
        errors.InvalidParameterValue,
        "expiration time exceeds the maximum expiration time",
    ),
    "protected and expiring": (create(is_protected=True, ttl=span(60)), errors.BadRequest, "cannot have an expiration"),
    "default expiring": (update("spec.ttl", ttl=span(60)), errors.BadRequest, "on the default branch"),
    "mask without field": (update("spec.is_protected", ttl=span(60)), errors.InvalidParameterValue, "does not have"),
    "unknown mask": (update("spec.colour", ttl=span(60)), errors.InvalidParameterValue, "unknown field 'spec.colour'"),
    "source cannot change": (
        update("spec.source_branch", source_branch="x"),
        errors.InvalidParameterValue,
        "cannot be changed",
    ),
    "unknown field": (
        raw("POST", "projects/demo/branches?branch_id=x", {"spec": {"colour": "red"}}),
        errors.InvalidParameterValue,
        r"Unknown field 'spec\.colour'",
    ),
    "wrong type": (
        raw("POST", "projects/demo/branches?branch_id=x", {"spec": {"ttl": 3600}}),
        errors.InvalidParameterValue,
        r"Field 'spec\.ttl' must be a string",
    ),
    "a list": (raw("POST", "projects/demo/branches?branch_id=x", []), errors.InvalidParameterValue, "an object"),
    "root": (lambda _, api: api.delete_branch(PRODUCTION), errors.BadRequest, "Cannot delete root branch"),
    "endpoint that writes": (
        lambda _, api: api.delete_endpoint(f"{PRODUCTION}/endpoints/primary"),
        errors.BadRequest,
        "cannot be deleted independently",
    ),
    "page size": (
        lambda _, api: list(api.list_branches("projects/demo", page_size=-1)),
        errors.BadRequest,
        "page_size",
    ),
    "page token": (
        lambda _, api: list(api.list_branches("projects/demo", page_token="x")),
        errors.InvalidParameterValue,
        "page_token",
    ),
    "not deleted": (lambda _, api: api.undelete_branch(PRODUCTION), errors.BadRequest, "is not deleted"),
    "role id too short": (
        lambda _, api: api.create_role(PRODUCTION, postgres.Role(), role_id="abc"),
        errors.InvalidParameterValue,
        "between 4 and 63",
    ),
    "dangling role": (
        lambda _, api: api.create_database(
            PRODUCTION,
            postgres.Database(
                spec=postgres.DatabaseDatabaseSpec(role=f"{PRODUCTION}/roles/none", postgres_database="d")
            ),
            database_id="dang",
        ),
        errors.NotFound,
        'role not found; role_id:"none"',
    ),
    "role twice": (
        lambda _, api: api.create_role(
            PRODUCTION, postgres.Role(spec=postgres.RoleRoleSpec(postgres_role=USER)), role_id="again"
        ),
        errors.BadRequest,
        "role with that name already exists",
    ),
    "retention": (
        lambda _, api: api.update_project(
            "projects/demo",
            postgres.Project(spec=postgres.ProjectSpec(history_retention_duration=span(60))),
            FieldMask(["spec.history_retention_duration"]),
        ),
        errors.InvalidParameterValue,
        "between 172800s and 3024000s",
    ),
    "spread": (sized(autoscaling_limit_min_cu=1, autoscaling_limit_max_cu=32), errors.BadRequest, "not exceed 16"),
    "too large": (sized(autoscaling_limit_min_cu=60, autoscaling_limit_max_cu=72), errors.BadRequest, "and 64"),
    "suspend too soon": (sized(suspend_timeout_duration=span(5)), errors.BadRequest, "between 60s and 604800s"),
    "suspend and never": (
        sized(suspend_timeout_duration=span(60), no_suspension=True),
        errors.InvalidParameterValue,
        "Only one of",
    ),
    "credential too short": (credential(ttl=span(299 - 60)), errors.BadRequest, "at least 300 seconds"),
    "credential too long": (credential(ttl=span(3700)), errors.BadRequest, "at most 3600 seconds"),
    "credential for nothing": (credential(endpoint="x"), errors.NotFound, "resource not found"),
    "lsn": (
        create(source_branch_lsn="nonsense", no_expiry=True),
        errors.InvalidParameterValue,
        "must look like 16/B374D848",
    ),
    "before history": (
        create(source_branch_time=Timestamp(seconds=1_000_000_000), no_expiry=True),
        errors.InvalidParameterValue,
        "outside of the branch's history",
    ),
    "future": (
        create(source_branch_time=Timestamp(seconds=9_000_000_000), no_expiry=True),
        errors.InvalidParameterValue,
        "must not be in the future",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests(lakebase: Emulated, case: str) -> None:
    """Each is refused with the exception that the SDK has for it, and nothing is made."""
    act, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        act(lakebase, lakebase.w.postgres)
    names = [each.name for each in lakebase.w.postgres.list_branches(lakebase.project)]
    assert f"{lakebase.project}/branches/x" not in names


def test_details_tell_why_a_root_branch_stays(lakebase: Emulated) -> None:
    """ErrorInfo and RequestInfo are read by the SDK."""
    with pytest.raises(errors.BadRequest) as caught:
        lakebase.w.postgres.delete_branch(lakebase.production, purge=True)
    details = caught.value.get_error_details()
    assert details.error_info.reason == "RESOURCE_CONFLICT"
    assert details.error_info.metadata == {"declarative_context": "MANAGED_BY_PARENT"}
    assert details.request_info.request_id


def test_protected_branches_and_parents_stay(lakebase: Emulated) -> None:
    """Neither can be deleted; there is one protected branch; who expires has no children, and no parent expires."""
    api = lakebase.w.postgres
    parent = lakebase.branch(is_protected=True)
    with pytest.raises(errors.BadRequest, match="cannot delete protected branch"):
        api.delete_branch(parent.name)
    with pytest.raises(errors.BadRequest, match="limit of 1 protected"):
        lakebase.branch(is_protected=True)
    with pytest.raises(errors.BadRequest, match="protected branch"):
        api.delete_project(lakebase.project)
    open_ = Branch(spec=BranchSpec(is_protected=False))
    lakebase.done(api.update_branch(parent.name, open_, FieldMask(["spec.is_protected"])))
    child = lakebase.branch(parent.name, ttl=span(3600))
    with pytest.raises(errors.BadRequest, match="branch with children"):
        api.delete_branch(parent.name, purge=True)
    with pytest.raises(errors.BadRequest, match="with children"):
        api.update_branch(parent.name, Branch(spec=BranchSpec(ttl=span(60))), FieldMask(["spec.ttl"]))
    with pytest.raises(errors.BadRequest, match="it has an expiration time"):
        lakebase.branch(child.name)
    lakebase.done(api.delete_branch(child.name, purge=True))
    lakebase.done(api.delete_branch(parent.name, purge=True))


def test_who_may_only_look(lakebase: Emulated) -> None:
    """CAN USE: reading and credentials, no changes."""
    viewer = lakebase.client(2).postgres
    assert viewer.get_branch(lakebase.production).status.default
    with pytest.raises(errors.PermissionDenied, match="CAN MANAGE"):
        viewer.create_branch(lakebase.project, FOREVER, "x")
    assert lakebase.control("GET", "state", who=2).status_code == 403


def test_a_wrong_token(lakebase: Emulated) -> None:
    """Nobody is let in: not by the API, not by its control, not as a service principal with another's secret."""
    wrong = {"Authorization": "Bearer dapi-wrong"}
    for path in ("/api/2.0/postgres/projects", "/_emulator/state", "/api/2.0/preview/scim/v2/Me"):
        for headers in (wrong, {}):
            answer = httpx.get(lakebase.url + path, headers=headers)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    form = {"grant_type": "client_credentials", "scope": "all-apis"}
    answer = httpx.post(f"{lakebase.url}/oidc/v1/token", data=form, auth=(USER, "wrong"))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_logins_are_checked(lakebase: Emulated) -> None:
    """No TLS, a wrong token, somebody else's token, a role that there is not: each is refused by PostgreSQL's codes."""
    branch = lakebase.branch()
    other = lakebase.client(2).postgres.generate_database_credential(f"{branch.name}/endpoints/primary").token
    refused: list[tuple[str, dict[str, Any]]] = [
        ("sslmode=require", {"sslmode": "disable"}),
        ("password authentication failed", {"password": "wrong"}),
        ("password authentication failed", {"password": other}),
        ("password authentication failed", {"user": "nobody"}),
        ('database "none" does not exist', {"dbname": "none"}),
    ]
    for words, how in refused:
        with pytest.raises(psycopg.OperationalError, match=words):
            lakebase.connect(branch.name, **how)


def test_certificates_can_be_verified(lakebase: Emulated, tmp_path: Any) -> None:
    """Who trusts the emulator's authority may demand verify-full."""
    lakebase.emulator.authority.write(tmp_path / "ca.pem")
    with lakebase.connect(lakebase.production, sslmode="verify-full", sslrootcert=str(tmp_path / "ca.pem")) as found:
        assert found.pgconn.ssl_in_use


def test_statements_can_be_cancelled(lakebase: Emulated) -> None:
    """A cancel request finds its way to the right server."""
    branch = lakebase.branch().name
    with lakebase.connect(branch) as connection:
        connection.execute("set statement_timeout = '20s'")
        with connection.pipeline():
            cursor = connection.execute("select pg_sleep(15)")
            with lakebase.connect(branch) as other:  # a cancel request that comes before the statement does nothing
                asleep = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                assert poll(lambda: other.execute(asleep).fetchone(), deadline=Deadline(10))
            connection.cancel_safe(timeout=5)
            with pytest.raises(psycopg.errors.QueryCanceled):
                cursor.fetchone()


MISUSES: dict[str, tuple[str, str, Any, int, str]] = {
    "unknown route": ("GET", "weather", None, 404, "known are"),
    "wrong method": ("PUT", "faults", {}, 404, "known are"),
    "no kind": ("POST", "faults", {}, 400, "needs a 'kind'"),
    "unknown kind": ("POST", "faults", {"kind": "rain"}, 400, "one of status, drop"),
    "unknown field": ("POST", "faults", {"kind": "drop", "colour": "red"}, 400, "Unknown field 'colour'"),
    "unknown call": ("POST", "faults", {"kind": "drop", "route": "paint"}, 400, "There is no route 'paint'"),
    "no expression": ("POST", "faults", {"kind": "drop", "path": "("}, 400, "no regular expression"),
    "share": ("POST", "faults", {"kind": "drop", "share": 2}, 400, "share between 0 and 1"),
    "clock back": ("POST", "clock", {"advance": "-1s"}, 400, "not negative"),
    "no advance": ("POST", "clock", {}, 400, "not negative"),
    "latency": ("PATCH", "latencies", {"request": "often"}, 400, "none of SECONDS"),
    "latency of nothing": ("PATCH", "latencies", {"paint": "1"}, 400, "no latency of 'paint'"),
    "limit": ("PATCH", "limits", {"computes": 1}, 400, "Unknown field 'computes'"),
    "no limit": ("PATCH", "limits", {"branches": None}, 400, "must be a number"),
    "negative limit": ("PATCH", "limits", {"branches": -1}, 400, "must not be negative"),
    "logins": ("POST", "logins", {}, 400, "'refuse' is required"),
    "no branch": ("POST", "suspend", {"branch": "projects/demo/branches/none"}, 404, "branch id not found"),
    "no path": ("POST", "remember", {"branch": "production"}, 404, "resource not found"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_control_is_misused(lakebase: Emulated, case: str) -> None:
    """A mistake in a call of a control route is said, and changes nothing."""
    method, what, body, status, words = MISUSES[case]
    before = lakebase.control("GET", "state").json()
    answer = lakebase.control(method, what, body)
    assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    after = lakebase.control("GET", "state").json()
    assert {**before, "now": ""} == {**after, "now": ""}
    assert lakebase.control("GET", "faults").json() == {"faults": []}


@pytest.mark.parametrize("content", [b"{", b'"text"', b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_json(lakebase: Emulated, content: bytes) -> None:
    """MALFORMED_REQUEST, and no traceback."""
    token = lakebase.emulator.options.identities[0].token
    url = f"{lakebase.url}/api/2.0/postgres/projects/demo/branches?branch_id=x"
    answer = httpx.post(url, content=content, headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["error_code"]) == (400, "MALFORMED_REQUEST")
