"""The forwarder between real clients and real servers: TLS, passwords, big results, cancelling, hanging up."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import trustme
from step_servers import AS_ORDINARY_USER

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.postgres.connect import connect, url
from pytest_lakebranch.postgres.forwarder import Forwarder, listen_here, listen_in
from pytest_lakebranch.postgres.login import LoggedIn, encrypted, log_in
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.waiting import Deadline, poll

SYSTEM = "/usr/lib/postgresql/15/bin"
HBA = """local all postgres trust
hostssl all clear all password
hostssl all scram all scram-sha-256
hostssl all old all md5
"""


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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(authority: trustme.CA) -> Iterator[int]:
    """The port of a PostgreSQL that has TLS: the wheel's has none."""
    if not Path(SYSTEM).is_dir():
        pytest.skip(f"no PostgreSQL with TLS in {SYSTEM}")
    with tempfile.TemporaryDirectory(prefix="lbt", dir="/tmp") as directory:
        data, programs = Path(directory) / "data", find(SYSTEM)
        initdb = [*AS_ORDINARY_USER, programs.program("initdb"), "-D", data, "-U", "postgres", "-N"]
        initdb += ["--locale=C", "--encoding=UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, env=environment_without_pg())
        certificate = authority.issue_cert("localhost")
        (data / "server.crt").write_bytes(certificate.cert_chain_pems[0].bytes())
        (data / "server.key").write_bytes(certificate.private_key_pem.bytes())
        (data / "server.key").chmod(0o600)
        (data / "pg_hba.conf").write_text(HBA)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": directory, "ssl": "on", "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*AS_ORDINARY_USER, programs.program("postgres"), "-D", data, "-p", str(port), *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment_without_pg())
        try:
            _make_roles(Endpoint(directory, port, "postgres", "postgres"))
            yield port
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait()


def _make_roles(admin: Endpoint) -> None:
    with poll(lambda: _try(admin), deadline=Deadline(30)) as connection:  # type: ignore[union-attr]
        connection.execute("set password_encryption = 'scram-sha-256'")
        connection.execute("create role clear login password 's3cret'; create role scram login password 's3cret'")
        connection.execute("set password_encryption = 'md5'; create role old login password 's3cret'")


def _try(endpoint: Endpoint) -> psycopg.Connection[Any] | None:
    try:
        return connect(endpoint, autocommit=True)
    except psycopg.OperationalError:
        return None


@pytest.fixture
def elsewhere(server: int, authority: trustme.CA) -> Elsewhere:
    """The server, as an upstream whose certificate is checked."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return Elsewhere(server, context)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short directory."""
    with tempfile.TemporaryDirectory(prefix="lbf", dir="/tmp") as made:
        yield Path(made)


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
