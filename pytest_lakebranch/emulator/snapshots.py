"""Snapshots: states of branches that stay when the branch is gone."""

from __future__ import annotations

from copy import deepcopy

from pytest_lakebranch.emulator import names, views
from pytest_lakebranch.emulator.branches import EXPIRATION, Branches
from pytest_lakebranch.emulator.fields import Reader, flag, moment, seconds, spec, text
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import already_exists, not_found, over_quota, required
from pytest_lakebranch.emulator.resources import Snapshot
from pytest_lakebranch.emulator.world import Call, Change, View, World

SNAPSHOT: dict[str, Reader] = {
    "source_branch": text,
    "source_branch_lsn": text,
    "source_branch_time": moment,
    "ttl": seconds,
    "expire_time": moment,
    "no_expiry": flag,
}


class Snapshots:
    """The calls on snapshots."""

    def __init__(self, world: World, branches: Branches) -> None:
        self._world = world
        self._branches = branches

    def create(self, call: Call, project: str) -> View:
        """Freeze a branch as it is, or as it was. Takes the lock itself."""
        world = self._world
        with world.lock:
            parent = world.project(project)
            name = names.check("snapshot_id", call.query.get("snapshot_id", ""))
            if name in parent.snapshots:
                raise already_exists("snapshot")
            if len(parent.snapshots) >= world.limits.snapshots:
                raise over_quota(f"The project has reached its limit of {world.limits.snapshots} snapshots.")
            given = spec(SNAPSHOT, call.body)
            if "source_branch" not in given:
                raise required("spec.source_branch")
            wanted = any(each in given for each in EXPIRATION)
            expires = self._branches.expiration(given, world.time.now()) if wanted else None
            source = self._branches.named(parent, given["source_branch"])
        found = self._branches.moment(source, given.get("source_branch_time"), given.get("source_branch_lsn"))
        now = world.time.now()
        made = Snapshot(
            parent,
            name,
            source.name,
            world.points.hold(found.point),
            now,
            expires,
            source.store.bytes,
            deepcopy(source.roles),
            deepcopy(source.databases),
        )

        def commit() -> View:
            parent.snapshots[name] = made
            return views.snapshot(made)

        undo = lambda: world.points.let_go(made.point)  # noqa: E731
        return world.begin(call, made.name, "Snapshot", Change(commit, undo))

    def get(self, call: Call, project: str, snapshot: str) -> View:
        """A snapshot."""
        return views.snapshot(self._find(project, snapshot))

    def _find(self, project: str, snapshot: str) -> Snapshot:
        parent = self._world.project(project)
        if snapshot not in parent.snapshots:
            raise not_found("snapshot")
        return parent.snapshots[snapshot]

    def list(self, call: Call, project: str) -> View:
        """All snapshots of a project."""
        found = self._world.project(project).snapshots.values()
        return page([views.snapshot(each) for each in found], "snapshots", call.query)

    def delete(self, call: Call, project: str, snapshot: str) -> View:
        """Delete a snapshot; branches that were made from it stay."""
        found = self._find(project, snapshot)
        return self._world.begin(call, found.name, "Snapshot", Change(lambda: self._forget(found)))

    def _forget(self, snapshot: Snapshot) -> None:
        if snapshot.project.snapshots.pop(snapshot.id, None) is not None:
            self._world.points.let_go(snapshot.point)

    def tick(self, now: float) -> None:
        """Delete what has expired."""
        with self._world.lock:
            all_of_them = [each for project in self._world.projects.values() for each in project.snapshots.values()]
            for snapshot in all_of_them:
                if snapshot.expires is not None and snapshot.expires <= now:
                    self._forget(snapshot)
