"""The REST client against a real server that misbehaves: retries, deadlines, errors, and what is never said."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import pytest
from rest_rigs import SECRET, Script, Time

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers._rest import USER_AGENT, Client, is_quota

pytest_plugins = ["rest_fixtures"]


def error(status: int, code: str = "", message: str = "no", **more: Any) -> tuple[int, dict[str, str], Any]:
    """An answer as the API gives it."""
    headers = more.pop("headers", {})
    return status, headers, {"error_code": code, "message": message, "details": more.pop("details", [])}


def test_says_who_we_are(call: Any, script: Script) -> None:
    """Token and User-Agent are sent, and query and body."""
    assert call(query={"a": "b/c"}, body={"x": 1}) == {"ok": True}
    method, path, headers, body = script.seen[0]
    assert (method, path, json.loads(body)) == ("POST", "/x?a=b%2Fc", {"x": 1})
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert headers["User-Agent"] == USER_AGENT


@pytest.mark.parametrize(
    ("answer", "unsure"),
    [
        (error(429, "REQUEST_LIMIT_EXCEEDED"), False),
        (error(503), True),
        (error(500), True),
        (error(502), True),
        (error(504), True),
        (error(409, "RESOURCE_CONFLICT", "x has a reconciliation in progress"), False),
        (error(409, "", "Your project already has conflicting operations in progress."), False),
        ("drop", True),
        ("half", True),
        ((503, {}, "<html><title>Bad gateway</title></html>"), True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_passes_is_tried_again(call: Any, script: Script, answer: Any, unsure: bool) -> None:
    """And a lasting failure says whether a former attempt may have been carried out."""
    script.answers = [answer, answer, (200, {}, {"ok": True}), answer, error(409, "ALREADY_EXISTS")]
    assert call() == {"ok": True}
    with pytest.raises(CloudError, match="ALREADY_EXISTS") as caught:
        call()
    assert (len(script.seen), caught.value.unsure) == (5, unsure)


def test_pauses_grow_and_differ(call: Any, script: Script, time: Time) -> None:
    """Each about twice the former, never the same for all, never more than a few seconds."""
    script.answers = [error(503)] * 8
    call()
    assert all(0.1 * 2**n < pause < 0.3 * 2**n for n, pause in enumerate(time.slept[:5]))
    assert max(time.slept) < 12


@pytest.mark.parametrize(
    "answer",
    [
        error(429, headers={"Retry-After": "7"}),
        error(503, details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "7s"}]),
    ],
)
def test_the_service_says_when(call: Any, script: Script, time: Time, answer: Any) -> None:
    """Its word counts."""
    script.answers = [answer]
    call()
    assert sum(time.slept) == pytest.approx(7, abs=0.1)


@pytest.mark.parametrize("when", ["0", "Sun, 01 Nov 2020 12:00:00 GMT"])
def test_at_once_is_not_without_a_pause(call: Any, script: Script, time: Time, when: str) -> None:
    """A service that says "again at once" is given our own pauses."""
    script.answers = [error(503, headers={"Retry-After": when})] * 5
    call()
    assert sum(time.slept) > 3


def test_when_is_meant_by_the_services_clock(call: Any, script: Script, time: Time) -> None:
    """A machine whose clock is wrong waits as long as any other."""
    script.date = "Sun, 01 Nov 2026 12:00:00 GMT"
    script.answers = [error(503, headers={"Retry-After": "Sun, 01 Nov 2026 12:00:07 GMT"})]
    call()
    assert sum(time.slept) == pytest.approx(7, abs=0.1)


def test_signing_in_is_tried_again(call: Any, client: Client, script: Script) -> None:
    """And a token that was refused is renewed once, not at every attempt that follows."""
    asked = []

    def header(renew: bool) -> str:
        asked.append(renew)
        if len(asked) == 1:
            raise CloudError("no answer", passing=True, unsure=True)
        return "Bearer x"

    client.authorization = header
    script.answers = [error(401), error(503), (200, {}, {"ok": True})]
    assert call() == {"ok": True}
    assert asked == [False, False, True, False]


@pytest.mark.parametrize(
    ("status", "code", "message", "is_full"),
    [
        (400, "QUOTA_EXCEEDED", "no", True),
        (0, "RESOURCE_EXHAUSTED", "no", True),
        (400, "BAD_REQUEST", "The project has reached its limit of 10 branches.", True),
        (429, "RESOURCE_EXHAUSTED", "slow down", False),
        (429, "REQUEST_LIMIT_EXCEEDED", "over the limit of 10 requests a second", False),
    ],
)
def test_haste_is_no_quota(status: int, code: str, message: str, is_full: bool) -> None:
    """A limit of requests passes by itself; one of branches by deleting some."""
    assert is_quota(status, code, message) is is_full


def test_a_deadline_ends_it(call: Any, script: Script, time: Time) -> None:
    """The last failure is raised, and says how long it was tried."""
    script.answers = [error(503, "TEMPORARILY_UNAVAILABLE", "later")] * 100
    with pytest.raises(CloudError, match=r"branch b1: 503 TEMPORARILY_UNAVAILABLE: later \(tried for \d\d s\)"):
        call(seconds=30)
    assert time.passed <= 30


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(400, "QUOTA_EXCEEDED", "limit of 10"), "400 QUOTA_EXCEEDED: limit of 10. .*lakebranch_branches"),
        (error(401, "UNAUTHENTICATED", "Invalid access token."), "401 .*DATABRICKS_TOKEN"),
        (error(403, "PERMISSION_DENIED"), "403 .*CAN MANAGE"),
        (error(404, "NOT_FOUND", "project id not found"), "404 .*lakebranch_source"),
        (error(409, "ALREADY_EXISTS"), "409 ALREADY_EXISTS"),
        ((407, {}, "<html><title>Proxy login</title></html>"), "407: .*Proxy login.*proxy"),
        ((200, {"Content-Type": "text/html"}, "<html><title>Sign in</title></html>"), "Sign in.*proxy"),
        ((403, {"x-request-id": "req-7"}, {"message": "no"}), "Request id: req-7"),
        (error(400, details=[{"request_id": "req-8"}]), "Request id: req-8"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_lasts_is_said_at_once(call: Any, script: Script, time: Time, answer: Any, says: str) -> None:
    """Status, code, message, request id, and what to do; nothing is tried again, but for a token that is refused."""
    script.answers = [answer] * 2
    with pytest.raises(CloudError, match=f"(?s)creating branch b1: .*{says}"):
        call()
    assert len(script.seen) == (2 if answer[0] == 401 else 1)
    assert time.slept == []


def test_a_rate_is_kept(call: Any, client: Client, time: Time) -> None:
    """The third request in a minute waits for the next one."""
    client.rate.per_minute = 2
    for _ in range(4):
        call(seconds=500)
    assert time.passed == pytest.approx(60, abs=1)


def test_secrets_are_not_said(call: Any, script: Script, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in errors nor in logs nor in reprs."""
    caplog.set_level(logging.DEBUG)
    script.answers = [error(503), error(400, "BAD_REQUEST")]
    with pytest.raises(CloudError) as caught:
        call(body={"x": 1})
    said = f"{caplog.text} {caught.value!r} {caught.value} {client!r}"
    assert SECRET not in said


def test_errors_cross_processes() -> None:
    """As text, in a class that the other side knows."""
    made = CloudError("no", status=400, code="BAD", hint="Do it.")
    copy = pickle.loads(pickle.dumps(made))
    assert isinstance(copy, BranchError)
    assert str(copy) == str(made) == "400 BAD: no. Do it."
