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

from pytest_lakebranch.emulator import oidc
from pytest_lakebranch.emulator.addresses import Addresses
from pytest_lakebranch.emulator.certificates import Authority
from pytest_lakebranch.emulator.clock import WALL, WorldTime
from pytest_lakebranch.emulator.control import Control
from pytest_lakebranch.emulator.faults import Faults
from pytest_lakebranch.emulator.gateway import Gateway
from pytest_lakebranch.emulator.http import Application
from pytest_lakebranch.emulator.identities import Identity, Tokens
from pytest_lakebranch.emulator.latency import Latencies
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.emulator.names import made_from
from pytest_lakebranch.emulator.operations import Operations
from pytest_lakebranch.emulator.projects import FIRST_BRANCH
from pytest_lakebranch.emulator.refusals import ApiError
from pytest_lakebranch.emulator.resources import Branch, uid
from pytest_lakebranch.emulator.roles import role_for
from pytest_lakebranch.emulator.routes import Services, routes
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
        self.services = Services.of(self.world)
        known = routes(self.services)
        self.faults = Faults(frozenset(route.name for route in known) | oidc.NAMES, chance)
        self.world.latencies.known = self.faults.routes | {"request", "login", "wake"}
        self.application = Application(self, known, {**oidc.SignIn(self).pages, **Control(self).pages})
        self._over = threading.Event()
        self._begin()
        self._housekeeper = threading.Thread(target=self._keep_house, name="lakebranch-housekeeper", daemon=True)
        self._housekeeper.start()

    def _begin(self) -> None:
        """Do what may fail; then nothing is left that works in the background."""
        addresses = self.world.addresses
        try:
            self.world.latencies.set(self.options.latencies)
            if addresses.shared is not None:
                self.world.gateway.open(*addresses.listen_shared(), self.services.endpoints.by_token)
        except BaseException:
            self.world.gateway.close()
            raise

    @property
    def is_over(self) -> bool:
        """Whether it was closed."""
        return self._over.is_set()

    def set_up(self, project: str = PROJECT, faults: Sequence[Any] = ()) -> None:
        """Create a project as the first identity, with roles for all that manage, then let faults happen.

        Raises ConfigError for a name or fault that cannot be, MachineError when the project cannot be made.
        """
        creator, *others = self.options.identities
        try:
            self._done(self.services.projects.create, Call("create_project", creator, {"project_id": project}, {}))
            for identity in (each for each in others if each.manages):
                call = Call("create_role", creator, {"role_id": made_from(identity.name)}, {"spec": role_for(identity)})
                self._done(self.services.roles.create, call, project, FIRST_BRANCH)
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

    def advance(self, seconds: float) -> None:
        """Move the emulator's clock on, and do what is due by then."""
        self.world.time.advance(seconds)
        self.services.tick()

    def suspend(self, branch: Branch) -> None:
        """Suspend the computes of a branch, whoever is connected."""
        self.services.endpoints.suspend_all(branch)

    def _keep_house(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            try:
                self.services.tick()
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
            self.services.branches.dispose_all(list(project.branches.values()))
        self.world.gateway.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
