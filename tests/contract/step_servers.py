"""Real PostgreSQL servers for the tests of steps: one for each installation, a database of its own for each test."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import Binaries, find
from pytest_lakebranch.postgres.connect import connect, conninfo
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.steps.base import Workplace

AS_ORDINARY_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
KEPT_DATABASES = 10
INSTALLATIONS = {"embedded": "embedded", "system": "/usr/lib/postgresql/15/bin"}


@dataclass(frozen=True)
class Server:
    """A running server and the directory of its socket."""

    binaries: Binaries
    sockets: Path

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[Any]:
        """An autocommitting connection as superuser."""
        return connect(Endpoint(str(self.sockets), 5432, "postgres", dbname), autocommit=True)

    def place(self, root: Path, names: Iterator[int] = itertools.count()) -> Workplace:  # noqa: B008  (shared on purpose)
        """A workplace on a fresh database; those of earlier tests are dropped."""
        number = next(names)
        name = f"app{number}"
        with self.connect() as conn:
            conn.execute(f"CREATE DATABASE {name}")
            if number >= KEPT_DATABASES:
                conn.execute(f"DROP DATABASE IF EXISTS app{number - KEPT_DATABASES} WITH (FORCE)")
        return Workplace(Endpoint(str(self.sockets), 5432, "postgres", name), self.binaries, root)

    def clients_of(self, place: Workplace) -> int:
        """How many clients are connected to the workplace's database, after those that are leaving have left."""
        count = 0
        with self.connect() as conn:
            for _ in range(100):
                row = conn.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [place.endpoint.dbname]
                ).fetchone()
                count = row[0] if row else 0
                if count == 0:
                    break
                time.sleep(0.02)
        return count


def rows(place: Workplace, query: str) -> list[tuple[Any, ...]]:
    """What ``query`` gives in the workplace's database."""
    with connect(place.endpoint) as conn:
        return conn.execute(query).fetchall()


def dump(server: Server, path: Path, style: str, script: str, *options: str) -> Path:
    """What pg_dump writes of a database made by ``script``; made once for each server."""
    made = server.sockets / f"dump-{hashlib.sha256(repr([style, script, options]).encode()).hexdigest()[:12]}"
    if not made.exists():
        place = server.place(path.parent)
        with connect(place.endpoint) as conn:
            conn.execute(script)
        command = [server.binaries.program("pg_dump"), f"--format={style}", f"--file={made}", *options]
        subprocess.run([*command, conninfo(place.endpoint)], check=True)
    shutil.copytree(made, path) if made.is_dir() else shutil.copyfile(made, path)
    return path


@contextmanager
def running(which: str, *initdb_options: str, **more: object) -> Iterator[Server]:
    """A new server of one installation with ``more`` settings, stopped and deleted afterwards."""
    binaries = find(INSTALLATIONS[which])
    sockets = Path(tempfile.mkdtemp(prefix="lb", dir=_fast_directory()))
    data = sockets / "data"
    environ = environment_without_pg()
    initdb = [*AS_ORDINARY_USER, binaries.program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N"]
    subprocess.run(
        [*initdb, "--locale=C", "--encoding=UTF8", *initdb_options], check=True, capture_output=True, env=environ
    )
    settings = {"max_wal_size": "64MB", "min_wal_size": "32MB", **more}
    with _served(binaries, data, sockets, settings) as server:
        yield server
    shutil.rmtree(sockets)


@contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A standby that follows a server, stopped and deleted afterwards."""
    sockets = Path(tempfile.mkdtemp(prefix="lb", dir=_fast_directory()))
    data = sockets / "data"
    where = f"host={primary.sockets} port=5432 user=postgres"
    command = [primary.binaries.program("pg_basebackup"), "--dbname", where, "--pgdata", data, "--write-recovery-conf"]
    subprocess.run([*command, "--checkpoint=fast", "--no-sync"], check=True, env=environment_without_pg())
    with _served(primary.binaries, data, sockets, {}) as server:
        yield server
    shutil.rmtree(sockets)


@contextmanager
def _served(binaries: Binaries, data: Path, sockets: Path, more: dict[str, object]) -> Iterator[Server]:
    settings = {"listen_addresses": "", "unix_socket_directories": sockets, "fsync": "off", "autovacuum": "off", **more}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (sockets / "log").open("w") as log:
        command = [*AS_ORDINARY_USER, binaries.program("postgres"), "-D", data, "-p", "5432", *options]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment_without_pg())
    try:
        server = Server(binaries, sockets)
        _wait_for(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def _fast_directory() -> str:
    """Memory if there is plenty: creating a database takes ten times as long on a disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2**30 else "/tmp"


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1000):
        try:
            return server.connect().close()
        except psycopg.OperationalError:
            assert process.poll() is None, (server.sockets / "log").read_text()
            time.sleep(0.01)
    raise AssertionError("the server did not start")
