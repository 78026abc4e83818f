"""Databases: made in the branch's own PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_lakebranch.emulator import names, sql, views
from pytest_lakebranch.emulator.fields import Reader, masked, spec, text
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import bad_request, invalid, not_found, over_quota, required
from pytest_lakebranch.emulator.resources import Branch, Database
from pytest_lakebranch.emulator.roles import LONGEST_NAME, Roles
from pytest_lakebranch.emulator.world import Call, Change, View, World
from pytest_lakebranch.providers.local.server import MAINTENANCE

DATABASE: dict[str, Reader] = {"role": text, "postgres_database": text}
RESERVED = (MAINTENANCE, "template0", "template1")


class Databases:
    """The calls on databases."""

    def __init__(self, world: World) -> None:
        self._world = world

    def create(self, call: Call, project: str, branch: str) -> View:
        """Create a database, or with ``replace_existing`` make one that exists as described."""
        world, parent = self._world, self._world.branch(project, branch)
        wanted = call.query.get("database_id", "")
        given = spec(DATABASE, call.body)
        postgres_database = given.get("postgres_database", wanted)
        _check_name(postgres_database)
        name = names.check("database_id", wanted or names.made_from(postgres_database))
        if "role" not in given:
            raise required("spec.role")
        owner = Roles.named(parent, given["role"])
        existing = next(
            (each for each in parent.databases.values() if name == each.id or _is(each, postgres_database)), None
        )
        if existing is not None:
            if not call.flag("replace_existing"):
                raise bad_request("database with that name already exists")
            return self._change(call, parent, existing, given)
        if len(parent.databases) >= world.limits.databases:
            raise over_quota(f"The branch has reached its limit of {world.limits.databases} databases.")
        made = Database(name, postgres_database, owner.id, world.time.now(), world.time.now())

        def commit() -> View:
            parent.databases[made.id] = made
            return views.database(parent, made)

        run = lambda: sql.create_database(parent, made)  # noqa: E731
        return world.change(call, parent, _path(parent, made), "Database", Change(commit, run=run))

    def _find(self, project: str, branch: str, database: str) -> tuple[Branch, Database]:
        parent = self._world.branch(project, branch)
        if database not in parent.databases:
            raise not_found("database")
        return parent, parent.databases[database]

    def get(self, call: Call, project: str, branch: str, database: str) -> View:
        """A database."""
        return views.database(*self._find(project, branch, database))

    def list(self, call: Call, project: str, branch: str) -> View:
        """All databases of a branch."""
        parent = self._world.branch(project, branch)
        return page([views.database(parent, each) for each in parent.databases.values()], "databases", call.query)

    def update(self, call: Call, project: str, branch: str, database: str) -> View:
        """Rename a database or give it to another role."""
        parent, found = self._find(project, branch, database)
        given = masked(DATABASE, call.body, call.query.get("update_mask", ""), groups={})
        return self._change(call, parent, found, given)

    def _change(self, call: Call, parent: Branch, database: Database, given: dict[str, Any]) -> View:
        postgres_database = given.get("postgres_database", database.postgres_database)
        _check_name(postgres_database)
        others = (each for each in parent.databases.values() if each is not database)
        if any(_is(each, postgres_database) for each in others):
            raise bad_request("database with that name already exists")
        owner = Roles.named(parent, given["role"]).id if "role" in given else database.role
        changed = replace(database, postgres_database=postgres_database, role=owner, updated=self._world.time.now())

        def commit() -> View:
            parent.databases[database.id] = changed
            return views.database(parent, changed)

        run = lambda: sql.alter_database(parent, database, changed)  # noqa: E731
        return self._world.change(call, parent, _path(parent, database), "Database", Change(commit, run=run))

    def delete(self, call: Call, project: str, branch: str, database: str) -> View:
        """Drop a database, and end who is connected to it."""
        parent, found = self._find(project, branch, database)

        def commit() -> None:
            parent.databases.pop(found.id, None)

        run = lambda: sql.drop_database(parent, found)  # noqa: E731
        return self._world.change(call, parent, _path(parent, found), "Database", Change(commit, run=run))


def _check_name(name: str) -> None:
    if not name:
        raise required("spec.postgres_database")
    if len(name.encode()) > LONGEST_NAME or "\0" in name or name in RESERVED:
        raise invalid(f"Field 'spec.postgres_database' must be a valid name of a database, got '{name}'.")


def _is(database: Database, postgres_database: str) -> bool:
    return database.postgres_database == postgres_database


def _path(branch: Branch, database: Database) -> str:
    return f"{branch.name}/databases/{database.id}"
