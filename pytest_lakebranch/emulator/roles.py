"""Roles: made in the branch's own PostgreSQL, for identities or with a password."""

from __future__ import annotations

import re
import secrets
import uuid
from dataclasses import replace
from typing import Any

from pytest_lakebranch.emulator import names, sql, views
from pytest_lakebranch.emulator.fields import Reader, flag, inside, many, masked, one_of, spec, text
from pytest_lakebranch.emulator.identities import Identity
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import ApiError, bad_request, invalid, not_found, over_quota, required, trace
from pytest_lakebranch.emulator.resources import NO_LOGIN, OAUTH, PASSWORD, Branch, Role
from pytest_lakebranch.emulator.world import Call, Change, View, World

UNSPECIFIED = "IDENTITY_TYPE_UNSPECIFIED"
SUPERUSER = "DATABRICKS_SUPERUSER"
ATTRIBUTES = ("bypassrls", "createdb", "createrole")
ROLE: dict[str, Reader] = {
    "postgres_role": text,
    "identity_type": one_of("USER", "SERVICE_PRINCIPAL", "GROUP", UNSPECIFIED),
    "auth_method": one_of(OAUTH, PASSWORD, NO_LOGIN),
    "membership_roles": many(one_of(SUPERUSER)),
    "attributes": inside(dict.fromkeys(ATTRIBUTES, flag)),
}
CHANGEABLE = ("attributes", "membership_roles")
LONGEST_NAME = 63


class Roles:
    """The calls on roles."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, call: Call, project: str, branch: str) -> View:
        """Create a role, or with ``replace_existing`` make one that exists as described."""
        world, parent = self._world, self._world.branch(project, branch)
        wanted = call.query.get("role_id", "")
        given = spec(ROLE, call.body)
        name = names.check_role(wanted) if wanted else f"rol-{uuid.uuid4().hex[:12]}"
        postgres_role = given.get("postgres_role", wanted)
        _check_name(postgres_role)
        existing = next((each for each in parent.roles.values() if name == each.id or _is(each, postgres_role)), None)
        if existing is not None:
            if not call.flag("replace_existing"):
                raise bad_request("role with that name already exists")
            return self._change(call, parent, existing, {"attributes": {}, "membership_roles": [], **given})
        if len(parent.roles) >= world.limits.roles:
            raise over_quota(f"The branch has reached its limit of {world.limits.roles} roles.")
        made = _new(name, postgres_role, given, world.time.now())

        def commit() -> View:
            parent.roles[made.id] = made
            return views.role(parent, made)

        run = lambda: sql.create_role(parent, made)  # noqa: E731
        return world.change(call, parent, _path(parent, made), "Role", Change(commit, run=run))

    def _find(self, project: str, branch: str, role: str) -> tuple[Branch, Role]:
        parent = self._world.branch(project, branch)
        if role not in parent.roles:
            raise not_found("role")
        return parent, parent.roles[role]

    def get(self, call: Call, project: str, branch: str, role: str) -> View:
        """A role."""
        return views.role(*self._find(project, branch, role))

    def list(self, call: Call, project: str, branch: str) -> View:
        """All roles of a branch."""
        parent = self._world.branch(project, branch)
        return page([views.role(parent, each) for each in parent.roles.values()], "roles", call.query)

    def update(self, call: Call, project: str, branch: str, role: str) -> View:
        """Change attributes or memberships."""
        parent, found = self._find(project, branch, role)
        mask = call.query.get("update_mask", "")
        given = masked(ROLE, call.body, mask, groups={}, clearable=frozenset({"membership_roles"}))
        for name in given:
            if name not in CHANGEABLE and mask not in ("*", "spec"):
                raise invalid(f"Field 'update_mask' names 'spec.{name}', which cannot be changed.")
        return self._change(call, parent, found, given)

    def _change(self, call: Call, parent: Branch, role: Role, given: dict[str, Any]) -> View:
        changed = replace(
            role,
            attributes={**role.attributes, **given.get("attributes", {})},
            superuser=SUPERUSER in given["membership_roles"] if "membership_roles" in given else role.superuser,
            updated=self._world.time.now(),
        )

        def commit() -> View:
            parent.roles[role.id] = changed
            return views.role(parent, changed)

        run = lambda: sql.alter_role(parent, changed)  # noqa: E731
        return self._world.change(call, parent, _path(parent, role), "Role", Change(commit, run=run))

    def delete(self, call: Call, project: str, branch: str, role: str) -> View:
        """Drop a role; what it owns goes to another one if that is named, else it must own nothing."""
        parent, found = self._find(project, branch, role)
        heir = self.named(parent, call.query["reassign_owned_to"]) if "reassign_owned_to" in call.query else None
        owned = [each for each in parent.databases.values() if each.role == found.id]
        if owned and heir is None:
            raise bad_request(f"role '{found.postgres_role}' owns database '{owned[0].postgres_database}'")

        def commit() -> None:
            parent.roles.pop(found.id, None)
            for database in owned:
                database.role = heir.id if heir else database.role

        run = lambda: sql.drop_role(parent, found, heir)  # noqa: E731
        return self._world.change(call, parent, _path(parent, found), "Role", Change(commit, run=run))

    def reveal(self, call: Call, project: str, branch: str, role: str) -> View:
        """The password of a role that has one from the service."""
        _, found = self._find(project, branch, role)
        if found.password is None:
            raise bad_request(f"role '{found.postgres_role}' does not have a password that can be revealed")
        return {"password": found.password}

    @staticmethod
    def named(branch: Branch, path: str) -> Role:
        """The role of the branch that a full path, or an identifier, names; raises ApiError."""
        name = path.removeprefix(f"{branch.name}/roles/")
        if name not in branch.roles:
            raise ApiError(404, "NOT_FOUND", f'role not found; role_id:"{name}"{trace()}')
        return branch.roles[name]


def _new(name: str, postgres_role: str, given: dict[str, Any], now: float) -> Role:
    kind = given.get("identity_type", UNSPECIFIED)
    method = given.get("auth_method", PASSWORD if kind == UNSPECIFIED else OAUTH)
    if method == OAUTH and kind == UNSPECIFIED:
        raise invalid("Field 'spec.auth_method': LAKEBASE_OAUTH_V1 needs an identity_type.")
    made = Role(name, postgres_role, kind, method, now, now, SUPERUSER in given.get("membership_roles", []))
    made.attributes = given.get("attributes", {})
    made.password = secrets.token_urlsafe(18) if method == PASSWORD else None
    return made


def role_for(identity: Identity) -> dict[str, Any]:
    """The spec of a superuser's role with which an identity can log in."""
    kind = "SERVICE_PRINCIPAL" if identity.is_service_principal else "USER"
    attributes = {"createdb": True, "createrole": True}
    return {
        "postgres_role": identity.name,
        "identity_type": kind,
        "membership_roles": [SUPERUSER],
        "attributes": attributes,
    }


def _check_name(name: str) -> None:
    if not name:
        raise required("spec.postgres_role")
    if len(name.encode()) > LONGEST_NAME or "\0" in name or re.match(r"pg_|databricks_", name):
        raise invalid(f"Field 'spec.postgres_role' must be a valid name of a role, got '{name}'.")


def _is(role: Role, postgres_role: str) -> bool:
    return role.postgres_role == postgres_role


def _path(branch: Branch, role: Role) -> str:
    return f"{branch.name}/roles/{role.id}"
