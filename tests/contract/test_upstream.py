"""The way to an endpoint: whom it trusts, what it waits for, what it says, and what it leaves open."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import trustme

from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres import messages
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.postgres.forwarder import Forwarder, listen_here, listen_in
from pytest_lakebranch.providers.lakebase import upstream
from pytest_lakebranch.providers.lakebase.upstream import LIVELINESS, Door
from pytest_lakebranch.waiting import Clock, Deadline, poll

pytest_plugins = ["tls_fixtures"]
ASKED = {"user": "scram", "database": "postgres"}


@pytest.fixture
def certificates(authority: trustme.CA, tmp_path: Path) -> str:
    """The authority's certificate, in a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def door(tls_server: int, certificates: str) -> Door:
    """The way to the server, whose certificate is checked."""
    return Door("localhost", tls_server, "scram", lambda _: "s3cret", authorities=certificates)


@contextmanager
def forwarded(door: Door, directory: Path) -> Iterator[Endpoint]:
    """Where clients connect to get through the door."""
    forwarder = Forwarder(listen_in(directory), door, name="branch b1")
    forwarder.open()
    try:
        yield Endpoint(str(directory), 5432, "scram", "postgres")
    finally:
        forwarder.close()


def never() -> None:
    """Nobody waits here."""
    raise AssertionError


def test_the_clients_session_is_the_identitys(door: Door, directory: Path) -> None:
    """Under TLS, checked by the file of certificates that was given."""
    with forwarded(door, directory) as here, connect(here) as conn:
        row = conn.execute("select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
    assert row == ("scram", True)


def test_silence_is_noticed(door: Door) -> None:
    """The kernel asks a server that says nothing whether it is there: its network may drop a connection silently."""
    with door.open() as connection:
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        known = {name: value for name, value in LIVELINESS.items() if hasattr(socket, name)}
        assert {name: connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in known} == known


@pytest.mark.parametrize(
    ("wrong", "says"),
    [("another", "CERTIFICATE_VERIFY_FAILED"), ("none", "No such file"), ("no certificate", "NO_CERTIFICATE|PEM")],
)
def test_what_cannot_be_trusted_is_said_at_once(
    door: Door, directory: Path, tmp_path: Path, wrong: str, says: str
) -> None:
    """A wrong certificate does not become right: nobody waits, and no credential is fetched."""
    other = tmp_path / "other.pem"
    if wrong == "another":
        trustme.CA().cert_pem.write_to_path(str(other))
    elif wrong == "no certificate":
        other.write_text("what is this?")
    door.authorities, door.clock, door.mint = str(other), Clock(sleep=lambda _: never()), lambda _: str(never())
    with forwarded(door, directory) as here, pytest.raises(psycopg.OperationalError, match=says):
        connect(here)


def test_on_this_machine_no_certificate_is_checked_unless_a_file_is_given(door: Door) -> None:
    """Nobody can listen in there; elsewhere the system's authorities are asked."""
    door.authorities = ""
    door.log_in(ASKED).connection.close()
    assert upstream.trust("localhost", "").verify_mode == ssl.CERT_NONE
    elsewhere = upstream.trust("db.example.com", "")
    assert (elsewhere.verify_mode, elsewhere.check_hostname) == (ssl.CERT_REQUIRED, True)


def _hang_up_in_the_handshake(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        client.recv(8)
        client.sendall(b"S")
        client.recv(1)
        client.shutdown(socket.SHUT_RDWR)


def _say_nothing(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        while client.recv(100):
            pass


@pytest.mark.parametrize("behaviour", [_hang_up_in_the_handshake, _say_nothing])
def test_a_server_that_does_not_answer_yet_is_waited_for(
    door: Door, behaviour: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs up within TLS, and one that is so cold that it says nothing."""
    monkeypatch.setattr(upstream, "CONNECT_SECONDS", 0.1)
    ready = door.port
    with listen_here() as listener:
        thread = threading.Thread(target=behaviour, args=(listener,))
        thread.start()
        door.port, door.clock = listener.getsockname()[1], Clock(sleep=lambda _: setattr(door, "port", ready))
        door.log_in(ASKED).connection.close()
        thread.join()


def test_a_name_that_is_not_known_yet_is_waited_for(door: Door) -> None:
    """That of an endpoint that was made a moment ago."""
    door.host, door.clock = "not-yet.invalid", Clock(sleep=lambda _: setattr(door, "host", "localhost"))
    door.log_in(ASKED).connection.close()


def test_what_is_waited_for_has_an_end(door: Door) -> None:
    """The last failure is raised."""
    door.host, door.patience, slept = "never.invalid", 0.0, []
    door.clock = Clock(sleep=slept.append)
    with pytest.raises(socket.gaierror):
        door.log_in(ASKED)
    assert slept == []


def test_why_no_credential_was_given_is_said_to_the_client(door: Door, directory: Path) -> None:
    """In one line, with all that is known."""
    refused = CloudError("no\nrights", status=403, code="PERMISSION_DENIED", request_id="r-1", hint="Ask somebody.")

    def refuse(_: Deadline) -> str:
        raise refused

    door.mint = refuse
    says = r"branch b1 cannot be reached: 403 PERMISSION_DENIED: no rights\. Request id: r-1\. Ask somebody\."
    with forwarded(door, directory) as here, pytest.raises(psycopg.OperationalError, match=says):
        connect(here)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_after_the_login_leaves_no_session(door: Door, directory: Path) -> None:
    """A defect is said to the client, and its session on the server ends."""

    def fail() -> bool:
        raise ZeroDivisionError("a defect")

    count = "select count(*) from pg_stat_activity where usename = 'scram'"
    with forwarded(door, directory) as here, connect(here, autocommit=True) as conn:
        door.is_broken = fail
        with pytest.raises(psycopg.OperationalError, match="ZeroDivisionError: a defect"):
            connect(here)
        with pytest.raises(ZeroDivisionError) as caught:
            door.log_in(ASKED)
        assert poll(lambda: conn.execute(count).fetchone() == (1,) or None, deadline=Deadline(5)), caught


def test_a_parameter_that_is_no_text_is_the_servers_business(door: Door, directory: Path) -> None:
    """A client gets an answer, whatever bytes it starts with."""
    with forwarded(door, directory) as here, socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{here.host}/.s.PGSQL.5432")
        client.sendall(messages.request(messages.PROTOCOL_3_0, b"user\0scram\0database\0postgres\0\xff\xfe\0x\0\0"))
        kind, body = messages.read_message(client)
        assert kind == b"E"
        assert "unrecognized configuration parameter" in messages.error_fields(body)["M"]
