"""A PostgreSQL that wants TLS and passwords, as one in the cloud does; a plugin, so that test modules share it."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from step_servers import AS_ORDINARY_USER

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.waiting import Deadline, poll

SYSTEM = "/usr/lib/postgresql/15/bin"
HBA = """local all postgres trust
hostssl all clear all password
hostssl all scram all scram-sha-256
hostssl all old all md5
"""


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="session")
def tls_server(authority: trustme.CA) -> Iterator[int]:
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
def directory() -> Iterator[Path]:
    """A short directory."""
    with tempfile.TemporaryDirectory(prefix="lbf", dir="/tmp") as made:
        yield Path(made)
