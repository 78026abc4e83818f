"""The emulator, put together."""

from __future__ import annotations

import secrets
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pytest_lakebranch.emulator.addresses import Addresses
from pytest_lakebranch.emulator.branches import Branches
from pytest_lakebranch.emulator.certificates import Authority
from pytest_lakebranch.emulator.clock import WALL, WorldTime
from pytest_lakebranch.emulator.control import Control
from pytest_lakebranch.emulator.credentials import Credentials
from pytest_lakebranch.emulator.databases import Databases
from pytest_lakebranch.emulator.endpoints import Endpoints
from pytest_lakebranch.emulator.faults import Faults
from pytest_lakebranch.emulator.gateway import Gateway
from pytest_lakebranch.emulator.http import Application, Route
from pytest_lakebranch.emulator.identities import Identity, Tokens
from pytest_lakebranch.emulator.latency import Latencies
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.emulator.names import made_from
from pytest_lakebranch.emulator.oidc import SignIn
from pytest_lakebranch.emulator.operations import Operations
from pytest_lakebranch.emulator.projects import FIRST_BRANCH, Projects
from pytest_lakebranch.emulator.refusals import ApiError
from pytest_lakebranch.emulator.resources import Branch, uid
from pytest_lakebranch.emulator.roles import Roles, role_for
from pytest_lakebranch.emulator.snapshots import Snapshots
from pytest_lakebranch.emulator.store import ForkPoints
from pytest_lakebranch.emulator.world import Call, View, World
from pytest_lakebranch.errors import ConfigError, MachineError
from pytest_lakebranch.waiting import Clock, Deadline, poll

if TYPE_CHECKING:
    from pytest_lakebranch.model import ForkPoint
    from pytest_lakebranch.providers.local.provider import LocalProvider

TICK_SECONDS = 0.2
SET_UP_SECONDS = 120.0
USER = "developer@example.com"
VIEWER = "viewer@example.com"
PRINCIPAL = "5f0a1c7e-0000-4000-8000-1a6eb2a9c400"
PROJECT = "demo"


def identities() -> tuple[Identity, ...]:
    """A user and a service principal who may do everything, and a user who may only look; with new secrets."""
    return (
        Identity(USER, token=f"dapi{secrets.token_hex(16)}"),
        Identity(PRINCIPAL, secret=f"dose{secrets.token_hex(16)}"),
        Identity(VIEWER, manages=False, token=f"dapi{secrets.token_hex(16)}"),
    )


@dataclass(frozen=True, slots=True)
class Options:
    """How an emulator is to be. ``latencies`` are texts of distributions by name."""

    identities: tuple[Identity, ...] = field(default_factory=identities)
    limits: Limits = field(default_factory=Limits)
    latencies: dict[str, str] = field(default_factory=dict)
    addresses: Addresses = field(default_factory=Addresses)
    clock: Clock = WALL
    seed: int | None = None


class Emulator:
    """The Lakebase API over a local provider; ``base`` is what the first branch of each project begins as.

    ``application`` is a WSGI application, to be served or called in process. Raises MachineError. As a context
    manager it ends with all its branches; the provider is its owner's.
    """

    def __init__(self, provider: LocalProvider, base: ForkPoint, options: Options | None = None) -> None:
        self.options = options or Options()
        self.account_id = uid()
        self.workspace_id = 7_474_000_000_000_000 + secrets.randbelow(10**12)
        self.authority = Authority()
        self.late_failures: deque[str] = deque(maxlen=100)
        time, chance = WorldTime(self.options.clock), Random(self.options.seed)  # noqa: S311  (not for secrets)
        self.world = World(
            provider,
            base,
            time,
            Tokens(time, self.options.identities),
            self.options.limits,
            Latencies(frozenset(), chance),
            Operations(time),
            ForkPoints(provider),
            Gateway(self.authority.context),
            self.options.addresses,
        )
        routes = self._routes()
        names = frozenset(route.name for route in routes)
        self.faults = Faults(names, chance)
        self.world.latencies.known = names | {"request", "login", "wake"}
        self.world.latencies.set(self.options.latencies)
        self.application = Application(self, routes, {**SignIn(self).pages, **Control(self).pages})
        self._over = threading.Event()
        self._share_address()
        self._housekeeper = threading.Thread(target=self._keep_house, name="lakebranch-housekeeper", daemon=True)
        self._housekeeper.start()

    def _routes(self) -> tuple[Route, ...]:
        self._endpoints = Endpoints(self.world)
        self._branches = branches = Branches(self.world, self._endpoints)
        self._projects = projects = Projects(self.world, branches)
        endpoints, credentials = self._endpoints, Credentials(self.world)
        self._roles, databases = Roles(self.world), Databases(self.world)
        roles = self._roles
        self._snapshots = snapshots = Snapshots(self.world, branches)
        one = "/projects/<project>"
        two = f"{one}/branches/<branch>"
        three = f"{two}/endpoints/<endpoint>"
        return (
            Route("create_project", "POST", "/projects", projects.create, changes=True),
            Route("list_projects", "GET", "/projects", projects.list),
            Route("get_project", "GET", one, projects.get),
            Route("update_project", "PATCH", one, projects.update, changes=True),
            Route("delete_project", "DELETE", one, projects.delete, changes=True),
            Route("undelete_project", "POST", f"{one}/undelete", projects.undelete, changes=True),
            Route("create_branch", "POST", f"{one}/branches", branches.create, changes=True, locks=True),
            Route("list_branches", "GET", f"{one}/branches", branches.list),
            Route("get_branch", "GET", two, branches.get),
            Route("update_branch", "PATCH", two, branches.update, changes=True),
            Route("delete_branch", "DELETE", two, branches.delete, changes=True),
            Route("undelete_branch", "POST", f"{two}/undelete", branches.undelete, changes=True),
            Route("create_endpoint", "POST", f"{two}/endpoints", endpoints.create, changes=True),
            Route("list_endpoints", "GET", f"{two}/endpoints", endpoints.list),
            Route("get_endpoint", "GET", three, endpoints.get),
            Route("update_endpoint", "PATCH", three, endpoints.update, changes=True),
            Route("delete_endpoint", "DELETE", three, endpoints.delete, changes=True),
            Route("generate_database_credential", "POST", "/credentials", credentials.create),
            Route("create_role", "POST", f"{two}/roles", roles.create),
            Route("list_roles", "GET", f"{two}/roles", roles.list),
            Route("get_role", "GET", f"{two}/roles/<role>", roles.get),
            Route("update_role", "PATCH", f"{two}/roles/<role>", roles.update),
            Route("delete_role", "DELETE", f"{two}/roles/<role>", roles.delete),
            Route("reveal_role_password", "POST", f"{two}/roles/<role>/password", roles.reveal),
            Route("create_database", "POST", f"{two}/databases", databases.create),
            Route("list_databases", "GET", f"{two}/databases", databases.list),
            Route("get_database", "GET", f"{two}/databases/<database>", databases.get),
            Route("update_database", "PATCH", f"{two}/databases/<database>", databases.update),
            Route("delete_database", "DELETE", f"{two}/databases/<database>", databases.delete),
            Route("create_snapshot", "POST", f"{one}/snapshots", snapshots.create, changes=True, locks=True),
            Route("list_snapshots", "GET", f"{one}/snapshots", snapshots.list),
            Route("get_snapshot", "GET", f"{one}/snapshots/<snapshot>", snapshots.get),
            Route("delete_snapshot", "DELETE", f"{one}/snapshots/<snapshot>", snapshots.delete, changes=True),
            Route("get_operation", "GET", "/<path:resource>/operations/<operation>", self._operation),
        )

    def _share_address(self) -> None:
        """Where there is one address for all endpoints, listen on it."""
        addresses = self.world.addresses
        if addresses.shared is not None:
            self.world.gateway.open(*addresses.listen_shared(), self._endpoints.by_token)

    def _operation(self, call: Call, resource: str, operation: str) -> View:
        return self.world.operations.get(f"{resource}/operations/{operation}")

    def set_up(self, project: str = PROJECT, faults: Sequence[Any] = ()) -> None:
        """Create a project as the first identity, with roles for all that manage, then let faults happen.

        Raises ConfigError for a name or fault that cannot be, MachineError when the project cannot be made.
        """
        creator, *others = self.options.identities
        try:
            self._done(self._projects.create, Call("create_project", creator, {"project_id": project}, {}))
            for identity in (each for each in others if each.manages):
                call = Call("create_role", creator, {"role_id": made_from(identity.name)}, {"spec": role_for(identity)})
                self._done(self._roles.create, call, project, FIRST_BRANCH)
            self.world.branch(project, FIRST_BRANCH).store.present(self.world.time.now())  # what forks begin with
            self.faults.add(list(faults))
        except ApiError as error:
            raise ConfigError(error.message) from error

    def _done(self, handler: Callable[..., View], call: Call, *arguments: str) -> None:
        """Call a handler, and wait for its operation. Raises MachineError when that does not end well."""
        with self.world.lock:
            name = handler(call, *arguments)["name"]
        get = self.world.operations.get
        poll(lambda: get(name)["done"] or None, deadline=Deadline(SET_UP_SECONDS))
        if "response" not in get(name):
            raise MachineError(f"{call.route} failed: {get(name).get('error', 'it takes too long')}")

    def tick(self) -> None:
        """Do what is due: suspend, expire, purge. Done all the time anyway."""
        now = self.world.time.now()
        self._endpoints.tick(now)
        self._branches.tick(now)
        self._snapshots.tick(now)
        self._projects.tick(now)

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock on, and do what is due by then."""
        self.world.time.advance(seconds)
        self.tick()

    def suspend(self, branch: Branch) -> None:
        """Suspend the computes of a branch, whoever is connected."""
        self._endpoints.suspend_all(branch)

    def _keep_house(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            try:
                self.tick()
            except Exception:  # noqa: BLE001  (said, and tried again)
                traceback.print_exc()

    def close(self) -> None:
        """Stop everything and delete all branches. Idempotent."""
        if self._over.is_set():
            return
        self._over.set()
        self._housekeeper.join()
        self.world.time.end()
        self.world.operations.close()
        for project in self.world.projects.values():
            self._branches.dispose_all(list(project.branches.values()))
        self.world.gateway.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
