"""Projects: created with a default branch and its endpoint, changed, deleted softly or for good, brought back."""

from __future__ import annotations

from copy import copy
from typing import Any

from pytest_lakebranch.emulator import names, views
from pytest_lakebranch.emulator.branches import Branches
from pytest_lakebranch.emulator.fields import (
    Reader,
    flag,
    inside,
    integer,
    many,
    masked,
    number,
    seconds,
    settings,
    spec,
    text,
)
from pytest_lakebranch.emulator.limits import LONGEST_HISTORY, SHORTEST_HISTORY
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import already_exists, bad_request, invalid, not_found, over_quota
from pytest_lakebranch.emulator.resources import Origin, Project
from pytest_lakebranch.emulator.sizes import SUSPENSION, resized
from pytest_lakebranch.emulator.sql import prepare_root
from pytest_lakebranch.emulator.world import Call, Change, View, World

DEFAULTS = {
    "autoscaling_limit_min_cu": number,
    "autoscaling_limit_max_cu": number,
    "suspend_timeout_duration": seconds,
    "no_suspension": flag,
    "pg_settings": settings,
}
GROUP = {"min": integer, "max": integer, "enable_readable_secondaries": flag}
PROJECT: dict[str, Reader] = {
    "display_name": text,
    "pg_version": integer,
    "history_retention_duration": seconds,
    "default_endpoint_settings": inside(DEFAULTS),
    "default_branch": text,
    "enable_pg_native_login": flag,
    "budget_policy_id": text,
    "custom_tags": many(inside({"key": text, "value": text})),
}
BESIDE: dict[str, Reader] = {
    "initial_branch_spec": inside({"is_protected": flag}),
    "initial_endpoint_spec": inside(
        {name: reader for name, reader in DEFAULTS.items() if name != "pg_settings"} | {"group": inside(GROUP)}
    ),
}
VERSIONS = (15, 16, 17, 18)
"""Of PostgreSQL; the server is that of this machine, whatever is asked for."""
FIRST_BRANCH = "production"


class Projects:
    """The calls on projects."""

    def __init__(self, world: World, branches: Branches) -> None:
        self._world = world
        self._branches = branches

    def create(self, call: Call) -> View:
        """Create a project from the base, with branch ``production`` and its endpoint ``primary``."""
        world = self._world
        name = names.check("project_id", call.query.get("project_id", ""))
        given = spec(PROJECT, call.body, more=BESIDE)
        now = world.time.now()
        with world.lock:
            if name in world.projects:
                raise already_exists("project")
            if len(world.projects) >= world.limits.projects:
                raise over_quota(f"The workspace has reached its limit of {world.limits.projects} projects.")
            major = given.get("pg_version", int(world.provider.facts.postgres.split(".")[0]))
            if major not in VERSIONS:
                raise invalid(f"Field 'spec.pg_version' must be one of {', '.join(map(str, VERSIONS))}, got {major}.")
            project = Project(name, call.identity.name, now, now, display_name=name, pg_version=major)
            self._apply(project, given)
            initial = given.get(".initial_branch_spec", {})
            branch = self._branches.new(project, FIRST_BRANCH, Origin(), protected=initial.get("is_protected", False))
            branch.store = world.new_store(branch.name, world.base)
            project.default_branch = branch.id
            self._branches.add_primary(branch, resized(project.sizing, given.get(".initial_endpoint_spec", {})))
            world.projects[name] = project

        def run() -> None:
            prepare_root(branch, call.identity, now)
            branch.store.present(world.time.now())

        def commit() -> View:
            self._branches.ready(branch)
            return views.project(project)

        def undo() -> None:
            del world.projects[name]
            self._branches.dispose(branch)

        return world.begin(call, project.name, "Project", Change(run=run, commit=commit, undo=undo))

    def _apply(self, project: Project, given: dict[str, Any]) -> None:
        """Set what is given; raises ApiError before anything is set."""
        retention = given.get("history_retention_duration", project.retention)
        if not SHORTEST_HISTORY <= retention <= LONGEST_HISTORY:
            raise invalid("Field 'spec.history_retention_duration' must be between 172800s and 3024000s.")
        display_name = given.get("display_name", project.display_name)
        if not 1 <= len(display_name) <= 256:
            raise invalid("Field 'spec.display_name' must have between 1 and 256 characters.")
        default = self._default(project, given.get("default_branch"))
        defaults = given.get("default_endpoint_settings", {})
        project.sizing = resized(project.sizing, defaults)
        project.retention, project.display_name, project.default_branch = retention, display_name, default
        project.native_login = given.get("enable_pg_native_login", project.native_login)
        project.budget_policy = given.get("budget_policy_id", project.budget_policy)
        project.tags = given.get("custom_tags", project.tags)

    @staticmethod
    def _default(project: Project, wanted: str | None) -> str:
        if wanted is None:
            return project.default_branch
        found = project.branches.get(wanted.removeprefix(f"{project.name}/branches/"))
        if found is None or found.deleted is not None or found.name != wanted:
            raise not_found("branch")
        if found.expires is not None:
            raise bad_request("A branch with an expiration time cannot be the default branch.")
        return found.id

    def get(self, call: Call, project: str) -> View:
        """A project."""
        return views.project(self._world.project(project, deleted=True))

    def list(self, call: Call) -> View:
        """All projects."""
        found = [each for each in self._world.projects.values() if call.flag("show_deleted") or each.deleted is None]
        return page([views.project(each) for each in found], "projects", call.query)

    def update(self, call: Call, project: str) -> View:
        """Change a project."""
        found = self._world.project(project)
        given = masked(
            PROJECT,
            call.body,
            call.query.get("update_mask", ""),
            groups=SUSPENSION,
            clearable=frozenset({"custom_tags"}),
        )
        if given.get("pg_version", found.pg_version) != found.pg_version:
            raise invalid("Field 'spec.pg_version' cannot be changed.")
        self._apply(copy(found), given)

        def commit() -> View:
            self._apply(found, given)
            found.updated = self._world.time.now()
            return views.project(found)

        return self._world.begin(call, found.name, "Project", Change(commit))

    def delete(self, call: Call, project: str) -> View:
        """Delete a project with all that is in it, softly unless ``purge``."""
        world, found = self._world, self._world.project(project, deleted=True)
        purge = call.flag("purge")
        if found.deleted is not None and not purge:
            raise not_found("project")
        if any(branch.protected and branch.deleted is None for branch in found.branches.values()):
            raise bad_request("cannot delete project with a protected branch")
        for branch in found.branches.values():
            if branch.deleted is None:
                world.settled(branch)
        branches = list(found.branches.values())
        if purge:
            return world.begin(
                call,
                found.name,
                "Project",
                Change(run=lambda: self._branches.dispose_all(branches), commit=lambda: self._forget(found)),
            )

        def commit() -> None:
            found.deleted = world.time.now()
            found.purge = found.deleted + world.limits.kept_after_delete

        run = lambda: self._branches.put_to_rest(branches)  # noqa: E731
        return world.begin(call, found.name, "Project", Change(commit, run=run))

    def _forget(self, project: Project) -> None:
        self._world.projects.pop(project.id, None)
        for snapshot in project.snapshots.values():
            self._world.points.let_go(snapshot.point)

    def undelete(self, call: Call, project: str) -> View:
        """Bring back a softly deleted project."""
        found = self._world.project(project, deleted=True)
        if found.deleted is None:
            raise bad_request("project is not deleted")
        branches = [each for each in found.branches.values() if each.deleted is None]

        def commit() -> View:
            found.deleted = found.purge = None
            found.updated = self._world.time.now()
            return views.project(found)

        run = lambda: self._branches.open_all(branches)  # noqa: E731
        return self._world.begin(call, found.name, "Project", Change(commit, run=run))

    def tick(self, now: float) -> None:
        """Purge projects whose time has come."""
        with self._world.lock:
            due = [each for each in self._world.projects.values() if each.purge is not None and each.purge <= now]
            for project in due:
                self._forget(project)
        for project in due:
            self._branches.dispose_all(list(project.branches.values()))
