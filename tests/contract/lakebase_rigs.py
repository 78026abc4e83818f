"""What the tests of the Lakebase provider are made of: providers and engines over an emulator, and what they leave."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator_rigs import Emulated

from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.config import Settings, resolve
from pytest_lakebranch.emulator.oidc import NAMES as SIGN_IN
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute
from pytest_lakebranch.providers.lakebase.names import parse
from pytest_lakebranch.providers.lakebase.project import open_project
from pytest_lakebranch.providers.lakebase.provider import LakebaseProvider
from pytest_lakebranch.providers.lakebase.upkeep import RESIZE_AT
from pytest_lakebranch.state import sockets_root


def environ(emulated: Emulated) -> dict[str, str]:
    """What leads to the emulator, as its user."""
    return {"DATABRICKS_HOST": emulated.url, "DATABRICKS_TOKEN": str(emulated.emulator.options.identities[0].token)}


def machine(emulated: Emulated) -> dict[str, str]:
    """What leads to the emulator, as its service principal, by client id and secret."""
    found = emulated.emulator.options.identities[1]
    secret = {"DATABRICKS_CLIENT_ID": found.name, "DATABRICKS_CLIENT_SECRET": str(found.secret)}
    return {"DATABRICKS_HOST": emulated.url, "DATABRICKS_TOKEN": "", **secret}


def ours(emulated: Emulated) -> list[str]:
    """The branches that we have there."""
    with emulated.emulator.world.lock:
        found = [name for project in emulated.emulator.world.projects.values() for name in project.branches]
    return sorted(name for name in found if parse(name) is not None)


def calls(emulated: Emulated) -> list[str]:
    """The routes that were called, sign-in excepted."""
    return [served.route for served in list(emulated.emulator.application.served) if served.route not in SIGN_IN]


@dataclass
class Cloud:
    """A provider over an emulator."""

    emulated: Any
    settings: Settings
    provider: LakebaseProvider
    sockets: Path
    home: Path

    def start(self, name: str = "b1", **at: Any) -> LakebaseCompute:
        """A branch of the source, with a lease begun."""
        point = self.provider.cached(self.provider.root_key)
        assert point is not None
        compute = self.provider.start(name, at.get("at", point))
        assert isinstance(compute, LakebaseCompute)
        compute.mark()
        return compute

    def resize(self) -> None:
        """Have the endpoints of branches made small that are needed for long."""
        for _ in range(RESIZE_AT):
            self.provider._upkeep.tick()

    def engine(self, workers: int = 1) -> Engine:
        """An engine over the provider."""
        return Engine(self.provider, Ledger(self.home / "ledger"), addresses=self.sockets, workers=workers)


@contextmanager
def cloud(
    emulated: Emulated,
    home: Path,
    *,
    run: str = "run",
    wall: Any = None,
    login: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[Cloud]:
    """A provider until the block ends, and that then leaves nothing on the emulator."""
    settings = resolve(
        options={"provider": "lakebase", "source": emulated.project, "deadline": "60s", **options},
        environ={},
        ini={},
        root=home,
    )
    with tempfile.TemporaryDirectory(prefix="t", dir=sockets_root()) as sockets:
        more = {} if wall is None else {"wall": wall}
        project = open_project(settings, run, {**environ(emulated), **(login or {})}, **more)
        provider = LakebaseProvider(project, locks=home / "locks", sockets=Path(sockets), run_directory=home, **more)
        try:
            yield Cloud(emulated, settings, provider, Path(sockets), home)
        finally:
            provider.close()


@contextmanager
def troubled_cloud(emulated: Emulated, home: Path, **options: Any) -> Iterator[Cloud]:
    """A provider until the block ends; then faults end, too, so that it can delete what it made."""
    with cloud(emulated, home, **options) as made:
        try:
            yield made
        finally:
            emulated.emulator.faults.clear()


def sql(endpoint: Endpoint, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements in a connection of their own; the rows of the last."""
    with connect(endpoint, autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def real_cloud(home: Path) -> Iterator[Cloud]:
    """A provider in the project that CLOUD_SOURCE names, as whoever the environment says we are."""
    options = {"provider": "lakebase", "source": os.environ["CLOUD_SOURCE"]}
    settings = resolve(options=options, environ={}, ini={}, root=home)
    with tempfile.TemporaryDirectory(prefix="t", dir=sockets_root()) as sockets:
        provider = LakebaseProvider(open_project(settings, str(home)), locks=home / "locks", sockets=Path(sockets))
        try:
            yield Cloud(None, settings, provider, Path(sockets), home)
        finally:
            provider.close()


def ended(compute: Compute) -> str | None:
    """End a lease as the engine does: why the branch is not as it was."""
    compute.end_connections()
    return compute.change()
