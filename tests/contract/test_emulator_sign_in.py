"""Signing in to the emulator is a call as any other: it fails and takes its time, and the official client bears it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from databricks.sdk import errors
from emulator_rigs import Emulated

from pytest_lakebranch.emulator.oidc import NAMES

pytest_plugins = ["emulator_fixtures"]
PAGES = {
    "databricks_config": ("GET", "/.well-known/databricks-config"),
    "oauth_authorization_server": ("GET", "/oidc/.well-known/oauth-authorization-server"),
    "oidc_token": ("POST", "/oidc/v1/token"),
    "me": ("GET", "/api/2.0/preview/scim/v2/Me"),
}


@pytest.fixture(autouse=True)
def nothing_goes_wrong_afterwards(lakebase: Emulated) -> Iterator[None]:
    """The emulator is shared: faults and requests of one test are not the next one's."""
    lakebase.control("DELETE", "requests")
    yield
    lakebase.control("DELETE", "faults")
    lakebase.control("PATCH", "latencies", dict.fromkeys(PAGES, "0"))


def served(lakebase: Emulated, route: str) -> list[dict[str, Any]]:
    """The calls of ``route`` so far."""
    return [each for each in lakebase.control("GET", "requests").json()["requests"] if each["route"] == route]


def ask(lakebase: Emulated, name: str) -> httpx.Response:
    """One such call, as the service principal or the user."""
    method, path = PAGES[name]
    user, machine = lakebase.emulator.options.identities[:2]
    if name == "oidc_token":
        form = {"grant_type": "client_credentials", "scope": "all-apis"}
        return httpx.post(lakebase.url + path, data=form, auth=(machine.name, str(machine.secret)))
    return httpx.request(method, lakebase.url + path, headers={"Authorization": f"Bearer {user.token}"})


@pytest.mark.parametrize("name", PAGES)
def test_a_call_of_signing_in_fails_and_takes_its_time(lakebase: Emulated, name: str) -> None:
    """In every way that a call can, as often as was asked for; the next one succeeds. All are counted by name."""
    fault = {"route": name, "status": 503, "retry_after": "1"}
    kinds = [
        {"kind": "status", **fault},
        {"kind": "late", **fault},
        {"kind": "drop", **fault},
        {"kind": "half", **fault},
    ]
    assert lakebase.control("POST", "faults", kinds).status_code == 200
    assert lakebase.control("PATCH", "latencies", {name: "0.05"}).status_code == 200
    for _ in ("status", "late"):
        answer = ask(lakebase, name)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        code = "error" if name == "oidc_token" else "error_code"
        assert answer.json()[code] == "TEMPORARILY_UNAVAILABLE"
    for _ in ("drop", "half"):
        with pytest.raises(httpx.RemoteProtocolError):
            ask(lakebase, name)
    assert ask(lakebase, name).status_code == 200
    calls = served(lakebase, name)
    assert [each["status"] for each in calls] == [503, 503, 0, 200, 200]
    assert all(each["seconds"] >= 0.05 for each in calls)
    assert not lakebase.emulator.late_failures


def test_all_calls_of_signing_in_are_tried(lakebase: Emulated) -> None:
    """And control says their names, for faults and for latencies."""
    state = lakebase.control("GET", "state").json()
    assert set(PAGES) == NAMES
    assert set(PAGES) <= set(state["routes"])
    assert set(PAGES) <= set(state["latency_names"])


def test_the_official_client_bears_it(lakebase: Emulated) -> None:
    """It asks again where it is told to wait, also for who it is; a refusal is its own exception."""
    lakebase.control("POST", "faults", {"route": "me", "kind": "status", "status": 429, "retry_after": "1"})
    assert lakebase.w.current_user.me().user_name == lakebase.emulator.options.identities[0].name
    assert [each["status"] for each in served(lakebase, "me")] == [429, 200]
    lakebase.control("POST", "faults", {"route": "me", "kind": "status", "status": 403})
    with pytest.raises(errors.PermissionDenied):
        lakebase.w.current_user.me()
    lakebase.control(
        "POST", "faults", {"route": "oidc_token", "kind": "status", "status": 400, "error_code": "invalid_x"}
    )
    with pytest.raises(ValueError, match="invalid_x"):
        lakebase.client(1).postgres.get_project(lakebase.project)


def test_reading_takes_its_time(lakebase: Emulated) -> None:
    """A call that begins no operation takes the latency of its name itself."""
    lakebase.control("PATCH", "latencies", {"get_project": "0.05"})
    lakebase.w.postgres.get_project(lakebase.project)
    lakebase.control("PATCH", "latencies", {"get_project": "0"})
    assert served(lakebase, "get_project")[0]["seconds"] >= 0.05
