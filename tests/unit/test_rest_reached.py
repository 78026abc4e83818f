"""The way to the service: nobody there, one that has gone, proxies, certificates; each is named."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trustme
from rest_rigs import SECRET, Script, Time

from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.providers._rest import Client, Request, fetch
from pytest_lakebranch.waiting import Deadline

pytest_plugins = ["rest_fixtures"]


def test_nobody_there(client: Client, time: Time) -> None:
    """A host that does not answer is tried until the deadline, and named."""
    lost = Client("http://127.0.0.1:1", client.authorization, Rate(clock=time.clock), time.clock)
    with pytest.raises(CloudError, match=r"127\.0\.0\.1:1 does not answer.*DATABRICKS_HOST") as caught:
        lost.call(Request("GET", "/x", "reading"), Deadline(20, time.clock))
    lost.close()
    assert not caught.value.unsure
    assert len(time.slept) > 3


def test_a_host_that_never_answered_is_given_up_soon(client: Client, time: Time) -> None:
    """However long a call may take: its name may be wrong."""
    lost = Client("http://127.0.0.1:1", client.authorization, Rate(clock=time.clock), time.clock)
    with pytest.raises(CloudError, match=r"does not answer.*tried for \d+ s.*DATABRICKS_HOST"):
        lost.call(Request("GET", "/x", "reading"), Deadline(3600, time.clock))
    lost.close()
    assert time.passed <= 15


def test_a_name_without_an_address(client: Client, script: Script, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is said at once; where the host has answered before, the network may be what has gone."""
    assert client.call(Request("GET", "/x", "reading"), Deadline(60, time.clock)) == {"ok": True}
    script.answers = ["drop"] * 50
    client.close()

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    lost = Client("https://nowhere.example", client.authorization, Rate(clock=time.clock), time.clock)
    for each, slept in ((lost, False), (client, True)):
        time.slept.clear()
        with pytest.raises(CloudError, match=r"does not answer.*not known.*DATABRICKS_HOST"):
            each.call(Request("GET", "/x", "reading"), Deadline(60, time.clock))
        assert bool(time.slept) is slept
    lost.close()


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
