"""The REST client against a real server that misbehaves: retries, deadlines, errors, and what is never said."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme

from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.providers._rest import USER_AGENT, Client, Request, fetch, is_quota
from pytest_lakebranch.waiting import Clock, Deadline

SECRET = "dapi-planted-secret"


@dataclass
class Script:
    """What a server answers, in order: status, headers, body; ``drop`` hangs up, ``half`` hangs up in the midst."""

    answers: list[Any] = field(default_factory=list)
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    date: str = ""


@dataclass
class Time:
    """A clock that moves when somebody sleeps."""

    passed: float = 0.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.passed += seconds

    @property
    def clock(self) -> Clock:
        """For the client."""
        return Clock(now=lambda: self.passed, sleep=self.sleep)


@pytest.fixture
def script() -> Script:
    """What the server does."""
    return Script()


@pytest.fixture
def time() -> Time:
    """Time."""
    return Time()


@pytest.fixture
def client(script: Script, time: Time) -> Iterator[Client]:
    """A client of the scripted server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.seen.append((self.command, self.path, dict(self.headers), body))
            answer = script.answers.pop(0) if script.answers else (200, {}, {"ok": True})
            if answer == "drop":
                self.close_connection = True
                self.connection.close()
                return
            half = answer == "half"
            status, headers, found = (200, {}, {"long": "x" * 100}) if half else answer
            data = found.encode() if isinstance(found, str) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if half else data)
            self.close_connection = half

        do_GET = do_POST = _answer  # noqa: N815  (the library's names)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return script.date or super().date_time_string(timestamp)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # we hang up on purpose
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made = Client(
        f"http://127.0.0.1:{server.server_port}", lambda _: f"Bearer {SECRET}", Rate(clock=time.clock), time.clock
    )
    yield made
    made.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def call(client: Client, time: Time) -> Callable[..., Any]:
    """Sends one request, with a minute's patience."""

    def send(method: str = "POST", seconds: float = 60, **more: Any) -> Any:
        return client.call(Request(method, "/x", "creating branch b1", **more), Deadline(seconds, time.clock))

    return send


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


def test_nobody_there(client: Client, time: Time) -> None:
    """A host that does not answer is tried until the deadline, and named."""
    lost = Client("http://127.0.0.1:1", client.authorization, Rate(clock=time.clock), time.clock)
    with pytest.raises(CloudError, match=r"127\.0\.0\.1:1 does not answer.*DATABRICKS_HOST") as caught:
        lost.call(Request("GET", "/x", "reading"), Deadline(20, time.clock))
    lost.close()
    assert not caught.value.unsure
    assert len(time.slept) > 3


def test_a_service_that_is_gone_is_waited_for_once(client: Client, script: Script, time: Time) -> None:
    """Not by every call that follows; as soon as it answers, patience is back."""
    script.answers = ["drop"] * 200
    calls = []
    for seconds in (60, 60, 30):
        with pytest.raises(CloudError, match="does not answer: "):
            client.call(Request("GET", "/x", "reading"), Deadline(seconds, time.clock))
        calls.append(len(script.seen))
    assert calls[0] > 3
    assert calls[1:] == [calls[0] + 1, calls[0] + 2]
    script.answers = []
    client.call(Request("GET", "/x", "reading"), Deadline(60, time.clock))
    script.answers = ["drop"] * 3
    assert client.call(Request("GET", "/x", "reading"), Deadline(60, time.clock)) == {"ok": True}


@contextmanager
def proxy(answer: bytes) -> Iterator[str]:
    """A proxy that says one thing to everybody; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(1000)
                        client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


REFUSALS = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 21\r\n\r\n<title>No way</title>",
    "login": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "overloaded": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "page": b"<html><title>Welcome</title></html>",
    "deaf": b"",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_proxy_that_refuses_is_named(kind: str, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it said, and without its password; one that may let us through later is tried until the deadline."""
    with proxy(REFUSALS[kind]) as address:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:{SECRET}@{address}")
        client = Client("https://workspace.invalid", lambda _: "Bearer x", Rate(clock=time.clock), time.clock)
        with pytest.raises(CloudError) as caught:
            client.call(Request("GET", "/x", "reading"), Deadline(20, time.clock))
        client.close()
    said = str(caught.value)
    assert f"reading: https://workspace.invalid does not answer through the proxy {address}: " in said
    assert "HTTPS_PROXY and NO_PROXY" in said
    assert SECRET not in said
    if kind in ("forbidden", "login", "overloaded"):
        assert REFUSALS[kind].split(b" ")[1].decode() in said
        assert not caught.value.unsure
    assert bool(time.slept) == (kind not in ("forbidden", "login"))


def test_a_proxy_that_is_not_there_is_named(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the proxy that does not answer; where NO_PROXY takes the host out, it is not."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    for exempt, says in (
        ("", r"does not answer through the proxy 127\.0\.0\.1:1: "),
        ("workspace.invalid", "answer: "),
    ):
        monkeypatch.setenv("NO_PROXY", exempt)
        client = Client("https://workspace.invalid", lambda _: "Bearer x", Rate(clock=time.clock), time.clock)
        with pytest.raises(CloudError, match=says):
            client.call(Request("GET", "/x", "reading"), Deadline(20, time.clock))
        client.close()


def test_this_machine_is_reached_without_a_proxy(call: Any, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """None leads back to it, and an emulator is there."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert call() == {"ok": True}
    assert fetch("GET", f"{client.host}/x") == {"ok": True}


def test_a_certificate_of_nobody_known_is_said_at_once(time: Time) -> None:
    """That of a proxy that reads along, or one that this machine's clock is too early for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        host = f"https://localhost:{listener.getsockname()[1]}"
        client = Client(host, lambda _: "Bearer x", Rate(clock=time.clock), time.clock)
        with pytest.raises(CloudError, match=r"CERTIFICATE_VERIFY_FAILED.*clock.*SSL_CERT_FILE"):
            client.call(Request("GET", "/x", "reading"), Deadline(20, time.clock))
        client.close()
        thread.join()
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
