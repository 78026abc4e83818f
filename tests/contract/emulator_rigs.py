"""What the tests of the emulator are made of: an emulator over a base with rows, the official client, logins."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
from databricks.sdk import WorkspaceClient
from databricks.sdk.core import Config
from databricks.sdk.service import postgres
from local_rigs import rig

from pytest_lakebranch.emulator.emulator import PROJECT, USER, Emulator, Options
from pytest_lakebranch.emulator.listening import served
from pytest_lakebranch.waiting import Deadline, poll

BASE = "create table item (id int primary key); insert into item select generate_series(1, 10)"
DATABASE = "databricks_postgres"
NUMBERS = itertools.count(1)


@dataclass
class Emulated:
    """An emulator that is served, with the project ``demo``."""

    emulator: Emulator
    url: str
    project: str = f"projects/{PROJECT}"
    clients: dict[str, WorkspaceClient] = field(default_factory=dict)

    @property
    def production(self) -> str:
        """The default branch."""
        return f"{self.project}/branches/production"

    def client(self, who: int = 0, **more: Any) -> WorkspaceClient:
        """The official client, as one of the emulator's identities."""
        identity = self.emulator.options.identities[who]
        secret: dict[str, Any] = {"token": identity.token}
        if identity.secret is not None:
            secret = {"client_id": identity.name, "client_secret": identity.secret}
        return WorkspaceClient(config=Config(host=self.url, **secret, **more))

    @property
    def w(self) -> WorkspaceClient:
        """The official client of the user with all rights."""
        if "w" not in self.clients:
            self.clients["w"] = self.client(retry_timeout_seconds=5)
        return self.clients["w"]

    def branch(self, source: str | None = None, name: str | None = None, **spec: Any) -> postgres.Branch:
        """A new branch of ``source`` (the default branch), which does not expire unless told."""
        name = name or f"b{next(NUMBERS)}"
        if not {"ttl", "expire_time", "no_expiry"} & set(spec):
            spec["no_expiry"] = True
        wanted = postgres.Branch(spec=postgres.BranchSpec(source_branch=source, **spec))
        return self.done(self.w.postgres.create_branch(self.project, wanted, name))

    def done(self, operation: Any) -> Any:
        """What an operation ends with. The SDK would wait a second if it were not done at its first look."""
        get = self.w.postgres.get_operation
        assert poll(lambda: get(operation.name()).done or None, deadline=Deadline(30), every=0.01)
        return operation.wait()

    def clear(self) -> None:
        """Delete all branches but the default one, whatever the API would say."""
        world = self.emulator.world
        with world.lock:
            gone = [each for each in world.projects[PROJECT].branches.values() if not each.is_default]
            for branch in gone:
                del branch.project.branches[branch.id]
        self.emulator.services.branches.dispose_all(gone)

    def control(self, method: str, what: str, body: Any = None, who: int = 0) -> httpx.Response:
        """A call of a control route."""
        token = self.emulator.options.identities[who].token
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, f"{self.url}/_emulator/{what}", json=body, headers=headers)

    def state(self, branch: str, endpoint: str = "primary") -> str:
        """The state of an endpoint."""
        return self.w.postgres.get_endpoint(f"{branch}/endpoints/{endpoint}").status.current_state.value

    def host(self, branch: str, endpoint: str = "primary") -> str:
        """Where an endpoint listens."""
        found = self.w.postgres.get_endpoint(f"{branch}/endpoints/{endpoint}")
        return found.status.hosts.host

    def token(self, branch: str, endpoint: str = "primary") -> str:
        """A credential for it."""
        return self.w.postgres.generate_database_credential(f"{branch}/endpoints/{endpoint}").token

    def connect(self, branch: str, endpoint: str = "primary", **more: Any) -> psycopg.Connection[Any]:
        """A connection to it, as the user."""
        given = {
            "host": self.host(branch, endpoint),
            "port": 5432,
            "user": USER,
            "dbname": DATABASE,
            "sslmode": "require",
            "connect_timeout": 10,
            "autocommit": True,
        }
        return psycopg.connect(**{**given, "password": more.pop("password", None) or self.token(branch), **more})

    def count(self, branch: str) -> int:
        """Rows of the base's table there."""
        with self.connect(branch) as connection:
            return int(connection.execute("select count(*) from item").fetchone()[0])


@contextmanager
def emulated(home: Path, options: Options | None = None, *, base: str = BASE, port: int = 0) -> Iterator[Emulated]:
    """An emulator that is served until the block ends, and that then leaves nothing."""
    with rig(home, user=USER, database=DATABASE, settings=["max_prepared_transactions=2"]) as local:
        at = local.base(base.replace("insert", f'alter table item owner to "{USER}"; insert', 1))
        with Emulator(local.provider, at, options) as emulator:
            emulator.set_up()
            with served(emulator, port) as url:
                yield Emulated(emulator, url)
