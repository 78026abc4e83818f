"""Endpoints: computes that listen, sleep when idle, and wake when somebody connects."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

from pytest_lakebranch.emulator import names, views
from pytest_lakebranch.emulator.fields import (
    Reader,
    flag,
    inside,
    integer,
    masked,
    number,
    one_of,
    seconds,
    settings,
    spec,
)
from pytest_lakebranch.emulator.gateway import Door
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import (
    ApiError,
    already_exists,
    bad_request,
    invalid,
    managed_by_parent,
    required,
)
from pytest_lakebranch.emulator.resources import OAUTH, PASSWORD, READ_ONLY, READ_WRITE, Branch, Endpoint, Role, Sizing
from pytest_lakebranch.emulator.sizes import SUSPENSION, resized
from pytest_lakebranch.emulator.sql import verifier
from pytest_lakebranch.emulator.startup import RefusedError
from pytest_lakebranch.emulator.world import Call, Change, View, World
from pytest_lakebranch.errors import LakebranchError

ENDPOINT: dict[str, Reader] = {
    "endpoint_type": one_of(READ_WRITE, READ_ONLY),
    "autoscaling_limit_min_cu": number,
    "autoscaling_limit_max_cu": number,
    "disabled": flag,
    "suspend_timeout_duration": seconds,
    "no_suspension": flag,
    "group": inside({"min": integer, "max": integer, "enable_readable_secondaries": flag}),
    "settings": inside({"pg_settings": settings}),
}
TOO_MANY = (
    "The project has reached its limit of {limit} concurrently active computes: this one stays suspended. "
    "Wait until another is suspended, or delete a branch."
)


class Endpoints:
    """The calls on endpoints, and what happens behind them."""

    def __init__(self, world: World) -> None:
        self._world = world

    # -- life

    def new(self, branch: Branch, name: str, kind: str, sizing: Sizing) -> Endpoint:
        """An endpoint that listens, on its way to ACTIVE, or to IDLE when the project has no compute left."""
        now = self._world.time.now()
        made = Endpoint(branch, name, kind, sizing, now, now, now)
        made.pending = "ACTIVE" if self._has_room(branch) else "IDLE"
        self.open(made)
        branch.endpoints[name] = made
        return made

    def _has_room(self, branch: Branch) -> bool:
        """Whether one more compute of the branch may run; those of the default branch always may."""
        if branch.is_default or not branch.project.default_branch:
            return True
        others = (each for each in branch.project.endpoints if not each.branch.is_default)
        return sum("ACTIVE" in (each.state, each.pending) for each in others) < self._world.limits.active_computes

    def settle(self, endpoint: Endpoint) -> None:
        """What was pending is so."""
        if endpoint.pending is not None:
            endpoint.state, endpoint.pending = endpoint.pending, None
        endpoint.last_active = self._world.time.now()

    def start(self, branch: Branch) -> None:
        """Start the branch's server if an endpoint is to be active. Raises LakebranchError."""
        if any(each.pending == "ACTIVE" for each in branch.endpoints.values()):
            branch.store.running()

    def open(self, endpoint: Endpoint) -> None:
        """Have it listen; raises MachineError."""
        world = self._world
        if world.addresses.shared is not None:
            endpoint.address = world.addresses.shared
            return
        address, listener = world.addresses.listen()
        endpoint.address = address
        door = _Door(world, self, endpoint)
        world.gateway.open(address, listener, lambda *_: door)

    def by_token(self, token: str | None) -> Door | None:
        """Where all endpoints share an address: the door of the one for which the token was minted."""
        try:
            found = None if token is None else self._world.tokens.login(token).endpoint
            endpoint = None if found is None else self._world.endpoint(*found.split("/")[1::2])
        except ApiError:
            return None
        return None if endpoint is None else _Door(self._world, self, endpoint)

    def suspend_all(self, branch: Branch) -> None:
        """Suspend all computes of a branch, whoever is connected."""
        for endpoint in branch.endpoints.values():
            if endpoint.state == "ACTIVE":
                self._suspend(endpoint)

    def close(self, endpoint: Endpoint) -> None:
        """Stop listening; who is connected is cut off."""
        if endpoint.address and self._world.addresses.shared is None:
            self._world.gateway.close_address(endpoint.address)
        endpoint.address = ""
        endpoint.state, endpoint.pending = "IDLE", None

    def wake(self, endpoint: Endpoint) -> str:
        """The socket directory of the running compute; one that does not start sleeps on. Raises RefusedError."""
        asleep = False
        with self._world.lock:
            if endpoint.disabled:
                raise RefusedError("57P03", "The endpoint is disabled. Enable it using the API and retry.")
            if endpoint.state != "ACTIVE":
                if endpoint.pending != "ACTIVE" and not self._has_room(endpoint.branch):
                    raise RefusedError("53300", TOO_MANY.format(limit=self._world.limits.active_computes))
                endpoint.state, asleep = "ACTIVE", True
            endpoint.last_active = self._world.time.now()
        if asleep:
            self._world.time.wait(self._world.latencies.draw("wake"))
        try:
            return endpoint.branch.store.running().endpoint.host
        except BaseException as error:
            with self._world.lock:
                if not endpoint.branch.store.runs:
                    endpoint.state = "IDLE"
            if isinstance(error, LakebranchError):
                raise RefusedError("57P03", f"the compute could not be started: {error}") from error
            raise

    def tick(self, now: float) -> None:
        """Suspend what has been idle for too long."""
        with self._world.lock:
            awake = [
                endpoint
                for project in self._world.projects.values()
                for endpoint in project.endpoints
                if endpoint.state == "ACTIVE" and endpoint.pending is None and not endpoint.branch.busy
            ]
            asleep = [
                branch
                for project in self._world.projects.values()
                for branch in project.branches.values()
                if branch.has_store and branch.store.runs and branch.pending is None and not branch.busy
            ]
        for endpoint in awake:
            if _is_idle(endpoint, now) and self._falls_asleep(endpoint, now):
                _rest(endpoint.branch)
        for branch in asleep:  # what the API did by SQL has woken it
            _rest(branch)

    def _falls_asleep(self, endpoint: Endpoint, now: float) -> bool:
        """Mark as asleep what nobody has woken since it was looked at; who comes now finds it so, and wakes it."""
        with self._world.lock:
            if endpoint.state != "ACTIVE" or endpoint.branch.busy or not _is_due(endpoint, now):
                return False
            endpoint.state = "IDLE"
            return True

    def _suspend(self, endpoint: Endpoint) -> None:
        endpoint.state = "IDLE"
        _rest(endpoint.branch)

    # -- calls

    def create(self, call: Call, project: str, branch: str) -> View:
        """Add an endpoint to a branch; the second one that reads and writes is refused."""
        world, parent = self._world, self._world.branch(project, branch)
        name = names.check("endpoint_id", call.query.get("endpoint_id", ""))
        given = spec(ENDPOINT, call.body)
        kind = given.get("endpoint_type")
        if kind is None:
            raise required("spec.endpoint_type")
        if name in parent.endpoints:
            if not call.flag("replace_existing"):
                raise already_exists("endpoint")
            return self._change(call, parent.endpoints[name], given)
        if kind == READ_WRITE and any(each.type == READ_WRITE for each in parent.endpoints.values()):
            raise bad_request("branch already has a read-write endpoint")
        world.settled(parent)
        sizing, now = _resized(parent.project.sizing, given), world.time.now()
        self._apply(Endpoint(parent, name, kind, sizing, now, now, now), given)  # refused before anything listens
        made = self.new(parent, name, kind, sizing)
        self._apply(made, given)

        def commit() -> View:
            self.settle(made)
            return views.endpoint(made)

        return world.change(
            call,
            parent,
            made.name,
            "Endpoint",
            Change(run=lambda: self.start(parent), commit=commit, undo=lambda: self._remove(made)),
        )

    @staticmethod
    def _apply(endpoint: Endpoint, given: dict[str, Any]) -> None:
        group = given.get("group", {})
        low, high = group.get("min", endpoint.computes), group.get("max", endpoint.computes)
        if not 1 <= low == high:
            raise invalid(f"Field 'spec.group': min must be equal to max and at least 1, got {low} and {high}.")
        endpoint.computes = high
        endpoint.readable_secondaries = group.get("enable_readable_secondaries", endpoint.readable_secondaries)
        endpoint.disabled = given.get("disabled", endpoint.disabled)

    def get(self, call: Call, project: str, branch: str, endpoint: str) -> View:
        """An endpoint."""
        return views.endpoint(self._world.endpoint(project, branch, endpoint))

    def list(self, call: Call, project: str, branch: str) -> View:
        """All endpoints of a branch."""
        found = self._world.branch(project, branch).endpoints.values()
        return page([views.endpoint(each) for each in found], "endpoints", call.query)

    def update(self, call: Call, project: str, branch: str, endpoint: str) -> View:
        """Change an endpoint's size, suspension, settings, or disable it."""
        found = self._world.endpoint(project, branch, endpoint)
        given = masked(ENDPOINT, call.body, call.query.get("update_mask", ""), groups=SUSPENSION)
        return self._change(call, found, given)

    def _change(self, call: Call, endpoint: Endpoint, given: dict[str, Any]) -> View:
        if given.get("endpoint_type", endpoint.type) != endpoint.type:
            raise invalid("Field 'spec.endpoint_type' cannot be changed.")
        sizing = _resized(endpoint.sizing, given)
        self._world.settled(endpoint.branch)
        self._apply(copy(endpoint), given)

        def run() -> None:
            self._apply(endpoint, given)
            endpoint.sizing, endpoint.updated = sizing, self._world.time.now()
            if endpoint.disabled and endpoint.state == "ACTIVE":
                self._suspend(endpoint)

        return self._world.change(
            call, endpoint.branch, endpoint.name, "Endpoint", Change(run=run, commit=lambda: views.endpoint(endpoint))
        )

    def delete(self, call: Call, project: str, branch: str, endpoint: str) -> View:
        """Delete an endpoint; the one that reads and writes goes with its branch only."""
        found = self._world.endpoint(project, branch, endpoint)
        if found.type == READ_WRITE:
            raise bad_request(
                f"Cannot delete read-write endpoint '{found.name}'. "
                "Read-write endpoints cannot be deleted independently.",
                managed_by_parent(),
            )
        return self._world.change(
            call,
            found.branch,
            found.name,
            "Endpoint",
            Change(run=lambda: self._suspend(found), commit=lambda: self._remove(found)),
        )

    def _remove(self, endpoint: Endpoint) -> None:
        self.close(endpoint)
        endpoint.branch.endpoints.pop(endpoint.id, None)


def _resized(sizing: Sizing, given: dict[str, Any]) -> Sizing:
    inner = given.get("settings", {})
    return resized(sizing, {**given, **({"pg_settings": inner["pg_settings"]} if "pg_settings" in inner else {})})


def _is_awake(branch: Branch) -> bool:
    return branch.busy or any("ACTIVE" in (each.state, each.pending) for each in branch.endpoints.values())


def _rest(branch: Branch) -> None:
    branch.store.suspend_unless(lambda: _is_awake(branch))


def _is_due(endpoint: Endpoint, now: float) -> bool:
    timeout = endpoint.sizing.suspend
    return timeout is not None and now - endpoint.last_active >= timeout


def _is_idle(endpoint: Endpoint, now: float) -> bool:
    if not _is_due(endpoint, now):
        return False
    if endpoint.branch.store.is_busy():
        endpoint.last_active = now
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Door:
    """See Door."""

    world: World
    endpoints: Endpoints
    endpoint: Endpoint

    def verifier(self, user: str) -> str | None:
        """See Door."""
        branch = self.endpoint.branch
        with self.world.lock:
            role = self._role(user)
            if not branch.project.native_login or (role is not None and role.auth_method != PASSWORD):
                return None
            self._check_known(user)
        self.endpoints.wake(self.endpoint)
        return verifier(branch, user)

    def _role(self, user: str) -> Role | None:
        """The role that logs in, as far as the API knows it. Raises RefusedError while there is no database."""
        branch = self.endpoint.branch
        if branch.state != "READY":
            raise RefusedError("57P03", "the branch is not ready")
        return next((each for each in branch.roles.values() if each.postgres_role == user), None)

    def _check_known(self, user: str) -> None:
        """A new branch does not know its users at once, and says so once it has seen what they log in with."""
        if self.world.time.now() < self.endpoint.branch.logins_from:
            raise RefusedError("28P01", f'External authorization failed for user "{user}"')

    def admit(self, user: str, token: str) -> None:
        """See Door."""
        failed = RefusedError("28P01", f'password authentication failed for user "{user}"')
        with self.world.lock:
            role = self._role(user)
            self._check_known(user)
        try:
            found = self.world.tokens.login(token)
        except ApiError as error:
            raise failed from error
        if role is None or role.auth_method != OAUTH or found.identity.name != user:
            raise failed

    def socket_directory(self) -> str:
        """See Door."""
        return self.endpoints.wake(self.endpoint)

    def options(self) -> str:
        """See Door."""
        return "-c default_transaction_read_only=on" if self.endpoint.type == READ_ONLY else ""

    def touch(self) -> None:
        """See Door."""
        self.endpoint.last_active = self.world.time.now()
