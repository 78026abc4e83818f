"""What the tests of the local provider are made of: volumes, providers that must leave nothing, a base with rows."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pytest_lakebranch import config
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.state import State, sockets_root, write_owner
from tests.scan import processes

SYSTEM_15 = "/usr/lib/postgresql/15/bin"
VOLUME_OF = {"snapshot": "btrfs", "reflink": "xfs"}
BASE = """
create table item (id int primary key, name text not null);
insert into item select g, 'item ' || g from generate_series(1, 2000) g;
create index on item (name);
create table checking (id int primary key, amount int not null);
create table saving (id int primary key, amount int not null);
insert into checking select g, 100 from generate_series(1, 20) g;
insert into saving select g, 100 from generate_series(1, 20) g;
create table noise (v text);
create sequence ticket;
"""


@dataclass
class Volumes:
    """Loop-mounted file systems, made when first asked for."""

    directory: Path
    stack: ExitStack = field(default_factory=ExitStack)
    mounted: dict[str, Path] = field(default_factory=dict)

    def home(self, rung: str) -> Path:
        """A directory on which ``rung`` works; skips, with the reason, where it cannot be had."""
        kind = VOLUME_OF.get(rung)
        if kind is None:
            return self.directory
        if kind not in self.mounted:
            self.mounted[kind] = self._mount(kind)
        return self.mounted[kind]

    def _mount(self, kind: str) -> Path:
        if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"needs root and mkfs.{kind} to make a {kind} volume")
        image, mount = self.directory / f"{kind}.img", self.directory / kind
        subprocess.run(["truncate", "-s", "1G", image], check=True)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        mount.mkdir()
        done = subprocess.run(["mount", "-o", "loop", image, mount], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a loop device cannot be mounted: {done.stderr.strip()}")
        self.stack.callback(subprocess.run, ["umount", mount], check=True)
        return mount


@contextmanager
def volumes() -> Iterator[Volumes]:
    """Volumes until the block ends."""
    directory = Path(tempfile.mkdtemp(prefix="lbv"))
    made = Volumes(directory)
    try:
        with made.stack:
            yield made
    finally:
        shutil.rmtree(directory)


@contextmanager
def small_disk(mount: Path, size: str) -> Iterator[None]:
    """A file system in memory at a directory, until the block ends; skips where it cannot be had."""
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", mount], check=True)


def fill(file: Path) -> None:
    """Write to a file until no byte is free."""
    with file.open("wb", buffering=0) as full, contextlib.suppress(OSError):
        while True:
            full.write(bytes(1 << 16))


@dataclass
class Rig:
    """A provider with directories of its own in ``home``."""

    home: Path
    settings: config.Settings
    run: Path
    sockets: Path
    provider: LocalProvider

    def base(self, sql: str = BASE, *, key: str | None = None) -> ForkPoint:
        """A sealed base with what ``sql`` makes; built once for each home and settings."""
        key = key or self.provider.root_key
        at = self.provider.cached(key)
        if at is not None:
            return at
        with self.provider.building(key):
            compute = self.provider.build("base", None)
            with connect(compute.endpoint, autocommit=True) as connection:
                connection.execute(sql)
            return self.provider.seal(compute, key)

    def start(self, name: str = "b", at: ForkPoint | None = None) -> LocalCompute:
        """A branch, with a lease begun."""
        compute = self.provider.start(name, at or self.base())
        assert isinstance(compute, LocalCompute)
        compute.mark()
        return compute

    def left(self) -> list[str]:
        """Everything in the run's directories."""
        return sorted(str(path) for root in (self.run, self.sockets) for path in root.rglob("*"))


@contextmanager
def rig(home: Path, *, check: bool = True, **options: Any) -> Iterator[Rig]:
    """A provider whose state directory is ``home``; afterwards nothing of its run may be left."""
    settings = config.resolve(options={**options, "home": str(home)}, environ={}, ini={}, root=Path("/"))
    state = State(home).ensure()
    run = Path(tempfile.mkdtemp(prefix="r", dir=state.runs))
    owned = Path(tempfile.mkdtemp(prefix="t", dir=sockets_root()))
    write_owner(owned, Identity.of(os.getpid()))  # else it is taken for left behind when it is a minute old
    sockets = owned / "s"
    sockets.mkdir(mode=0o700)
    try:
        provider = LocalProvider(settings, state=state, run_directory=run, sockets=sockets)
        made = Rig(home, settings, run, sockets, provider)
        try:
            yield made
        finally:
            provider.close()
        assert made.left() == [] or not check
        assert processes_in(run) == []
    finally:
        shutil.rmtree(run)
        shutil.rmtree(owned)


def processes_in(directory: Path) -> list[int]:
    """Processes that work in ``directory``, also in mount namespaces of their own."""
    return [process.pid for process in processes() if Path(process.directory).is_relative_to(directory)]


def run_sql(compute: LocalCompute, sql: str, *args: object) -> list[tuple[Any, ...]]:
    """Run one statement as the tests' role, in a connection of its own."""
    with connect(compute.endpoint, autocommit=True) as connection:
        cursor = connection.execute(sql, args or None)
        return cursor.fetchall() if cursor.description else []


def try_sql(connection: psycopg.Connection[Any], sql: str) -> None:
    """Run a statement that may fail."""
    try:
        connection.execute(sql)
    except psycopg.Error:
        if not connection.autocommit:
            connection.rollback()
