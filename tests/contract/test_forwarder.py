"""The forwarder between real clients and real servers: TLS, passwords, big results, cancelling, hanging up."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import psycopg
import pytest
import trustme

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import connect, url
from pytest_lakebranch.postgres.forwarder import Forwarder, listen_here, listen_in
from pytest_lakebranch.postgres.login import LoggedIn, encrypted, log_in
from pytest_lakebranch.postgres.port import Port

pytest_plugins = ["tls_fixtures"]


@dataclass
class Elsewhere:
    """A server that wants TLS and passwords, as one in the cloud does. See Upstream."""

    port: int
    context: ssl.SSLContext
    role: str = "scram"
    passwords: list[str] = field(default_factory=list)
    name: str = "localhost"

    def open(self) -> socket.socket:
        """See Upstream."""
        return encrypted(
            socket.create_connection(("127.0.0.1", self.port)), self.context, self.name, may_be_clear=False
        )

    def log_in(self, asked: Mapping[str, str]) -> LoggedIn:
        """See Upstream."""
        return log_in(self.open(), {**asked, "user": self.role}, self.password)

    def password(self) -> str:
        """Counts how often it was asked for."""
        self.passwords.append("s3cret")
        return "s3cret"


@pytest.fixture
def elsewhere(tls_server: int, authority: trustme.CA) -> Elsewhere:
    """The server, as an upstream whose certificate is checked."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Elsewhere(tls_server, context)


@pytest.fixture
def forwarder(elsewhere: Elsewhere, directory: Path) -> Iterator[Forwarder]:
    """A forwarder in ``directory``."""
    made = Forwarder(listen_in(directory), elsewhere, name="branch b1")
    made.open()
    yield made
    made.close()
    assert [thread.name for thread in threading.enumerate() if "b1" in thread.name] == []


@pytest.fixture
def here(forwarder: Forwarder, directory: Path) -> Endpoint:
    """Where clients connect."""
    return Endpoint(str(directory), 5432, "whoever", "postgres")


@pytest.mark.parametrize("role", ["clear", "scram"])
def test_logs_in_with_the_password_of_another_role(here: Endpoint, elsewhere: Elsewhere, role: str) -> None:
    """The client needs no password; the session is the role's, encrypted, and has the client's parameters."""
    elsewhere.role = role
    with connect(here, application_name="mine") as conn:
        row = conn.execute(
            "select current_user, ssl, current_setting('application_name') from pg_stat_ssl where pid=pg_backend_pid()"
        ).fetchone()
    assert row == (role, True, "mine")
    assert len(elsewhere.passwords) == 1


def test_asyncpg_goes_through_it(here: Endpoint) -> None:
    """Another driver."""

    async def ask() -> Any:
        connection = await asyncpg.connect(url(here))
        try:
            return await connection.fetchval("select 41 + 1")
        finally:
            await connection.close()

    assert asyncio.run(ask()) == 42


def test_an_authentication_that_is_not_known_is_named(here: Endpoint, elsewhere: Elsewhere) -> None:
    """The password is not sent in a way nobody chose."""
    elsewhere.role = "old"
    with pytest.raises(psycopg.OperationalError, match=r"branch b1 cannot be reached: .*not supported \(code 5\)"):
        connect(here)
    assert elsewhere.passwords == []


def test_the_servers_refusal_is_passed_on(here: Endpoint) -> None:
    """The client sees the server's own error."""
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        connect(here, dbname="nowhere")


def test_a_wrong_certificate_is_refused_before_the_password(here: Endpoint, elsewhere: Elsewhere) -> None:
    """A server that cannot prove who it is gets nothing."""
    elsewhere.name = "example.org"
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        connect(here)
    assert elsewhere.passwords == []


def test_no_tls_no_password(elsewhere: Elsewhere, directory: Path) -> None:
    """A server that declines TLS gets nothing."""
    with listen_here() as listener:
        elsewhere.port = listener.getsockname()[1]
        forwarder = Forwarder(listen_in(directory), elsewhere, name="branch b1")
        forwarder.open()
        with ThreadPoolExecutor() as threads:
            failure = threads.submit(connect, Endpoint(str(directory), 5432, "x", "postgres"))
            with listener.accept()[0] as asked:
                asked.sendall(b"N")
                with pytest.raises(psycopg.OperationalError, match="offers no TLS"):
                    failure.result()
        forwarder.close()
    assert elsewhere.passwords == []


def test_much_in_both_directions_at_once(here: Endpoint) -> None:
    """A pipeline that sends megabytes while the server sends megabytes: nothing is lost, nobody waits for ever."""
    big = "x" * 300_000
    with connect(here) as conn, conn.pipeline():
        cursors = [conn.execute("select repeat(%s, 3)", [big]) for _ in range(30)]
        found = [cursor.fetchone() for cursor in cursors]
    assert [len(row[0]) for row in found if row] == [900_000] * 30


def test_copy(here: Endpoint) -> None:
    """COPY in both directions."""
    with connect(here) as conn, conn.cursor() as cursor:
        cursor.execute("create temporary table t (x text)")
        with cursor.copy("copy t from stdin") as into:
            for number in range(100_000):
                into.write_row([f"row {number}"])
        with cursor.copy("copy t to stdout") as out:
            assert sum(1 for _ in out.rows()) == 100_000


def test_cancelling(here: Endpoint) -> None:
    """A cancel request reaches the server."""
    with connect(here) as conn:
        timer = threading.Timer(0.2, conn.cancel_safe)
        timer.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute("select pg_sleep(60)")
        timer.join()


def test_cutting_ends_clients_but_those_that_are_spared(here: Endpoint, forwarder: Forwarder) -> None:
    """Whoever is cut gets an error; who had closed before does not count."""
    with connect(here) as stays, connect(here) as goes:
        connect(here).close()
        assert forwarder.cut(but=frozenset([stays.info.backend_pid])) == 1
        with pytest.raises(psycopg.OperationalError):
            goes.execute("select 1")
        stays.execute("select 1")
        assert forwarder.pids == {stays.info.backend_pid}
    assert forwarder.cut() == 0
    assert not forwarder.remain()


def test_a_client_that_is_cut_off_by_the_server_learns_why(here: Endpoint) -> None:
    """The server's last words arrive."""
    with connect(here, autocommit=True) as conn, connect(here) as victim:
        conn.execute("select pg_terminate_backend(%s)", [victim.info.backend_pid])
        with pytest.raises(psycopg.errors.AdminShutdown):
            victim.execute("select 1")


def test_closed_takes_nobody(here: Endpoint, forwarder: Forwarder) -> None:
    """After close clients cannot connect."""
    forwarder.close()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect(here)


def test_garbage_harms_nobody(here: Endpoint) -> None:
    """Clients that speak nonsense or hang up are dropped; the next is served."""
    for data in (b"", b"\0\0", b"GET / HTTP/1.1\r\n\r\n", b"\x7f\xff\xff\xff\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{here.host}/.s.PGSQL.5432")
            client.sendall(data)
    with connect(here) as conn:
        conn.execute("select 1")


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_port_wants_its_password(elsewhere: Elsewhere, password: str) -> None:
    """Other users of the machine can reach a loopback port, and get nowhere."""
    listener = listen_here()
    forwarder = Forwarder(listener, elsewhere, name="branch b1", password="right")
    forwarder.open()
    target = f"host=127.0.0.1 port={listener.getsockname()[1]} dbname=postgres user=x"
    with psycopg.connect(target, password="right") as conn:
        conn.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match=r"wrong password|no password supplied"):
        psycopg.connect(target, password=password)
    forwarder.close()
    assert len(elsewhere.passwords) == 1


@pytest.fixture
def port(forwarder: Forwarder, directory: Path) -> Iterator[Port]:
    """A port that leads to the server by ``directory``."""
    made = Port(directory)
    try:
        yield made
    finally:
        made.close()


def _through(port: Port) -> psycopg.Connection[Any]:
    target = f"host=127.0.0.1 port={port.number} dbname=postgres user=x connect_timeout=5"
    return psycopg.connect(target, password=port.password)


@pytest.mark.parametrize("short", ["files", "threads"])
def test_a_shortage_passes(port: Port, short: str) -> None:
    """A client for whom there is no file waits, one for whom there is no thread is sent away; the next is served."""
    process = psutil.Process(port._process.pid)
    kind = resource.RLIMIT_NOFILE if short == "files" else resource.RLIMIT_AS
    least = process.num_fds() if short == "files" else process.memory_info().vms + (1 << 20)
    before = resource.prlimit(process.pid, kind)
    with ThreadPoolExecutor() as threads:
        resource.prlimit(process.pid, kind, (least, before[1]))
        early = threads.submit(_through, port)
        if short == "threads":
            with pytest.raises(psycopg.OperationalError, match="closed the connection"):
                early.result()
        resource.prlimit(process.pid, kind, before)
        if short == "files":
            early.result().close()
    _through(port).close()


def test_a_port_ends_although_its_input_stays_open(directory: Path) -> None:
    """A process that a test forked has it, and lives on."""
    port = Port(directory)
    assert port._process.stdin is not None
    heir = subprocess.Popen(["sleep", "60"], pass_fds=[port._process.stdin.fileno()])
    try:
        with ThreadPoolExecutor() as threads:
            closing = threads.submit(port.close)
            try:
                closing.result(5)
            finally:
                heir.kill()
    finally:
        heir.wait()
    assert port._process.poll() is not None


def test_a_port_that_was_killed_can_be_closed(directory: Path) -> None:
    """With something still to be said to it."""
    port = Port(directory)
    port._process.kill()
    port._process.wait()
    port.cut()
    port.close()
    port.close()
