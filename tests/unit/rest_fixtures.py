"""Fixtures for the tests of the REST client; a plugin, so that several test modules share one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from rest_rigs import SECRET, Script, Time

from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.providers._rest import Client, Request
from pytest_lakebranch.waiting import Deadline


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
            scripted = script.answers and self.command != "DELETE"  # these come beside all else
            answer = script.answers.pop(0) if scripted else (200, {}, {"ok": True})
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

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  (the library's names)

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
