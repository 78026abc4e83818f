"""Branches: forked from the present or the past of another one, changed, deleted softly or for good, expired."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from pytest_lakebranch.emulator import names, views
from pytest_lakebranch.emulator.clock import timestamp
from pytest_lakebranch.emulator.endpoints import Endpoints
from pytest_lakebranch.emulator.fields import Reader, flag, masked, moment, seconds, spec, text
from pytest_lakebranch.emulator.paging import page
from pytest_lakebranch.emulator.refusals import (
    ApiError,
    already_exists,
    bad_request,
    invalid,
    managed_by_parent,
    not_found,
    over_quota,
    reconciling,
)
from pytest_lakebranch.emulator.resources import READ_WRITE, Branch, Origin, Project, Sizing, Snapshot
from pytest_lakebranch.emulator.store import Moment
from pytest_lakebranch.emulator.world import Call, Change, View, World

BRANCH: dict[str, Reader] = {
    "source_branch": text,
    "source_branch_lsn": text,
    "source_branch_time": moment,
    "source_snapshot": text,
    "is_protected": flag,
    "ttl": seconds,
    "expire_time": moment,
    "no_expiry": flag,
}
EXPIRATION = ("ttl", "expire_time", "no_expiry")
SOURCE = ("source_branch", "source_branch_lsn", "source_branch_time", "source_snapshot")
PRIMARY = "primary"


class Branches:
    """The calls on branches."""

    def __init__(self, world: World, endpoints: Endpoints) -> None:
        self._world = world
        self._endpoints = endpoints

    # -- making

    def new(
        self, project: Project, name: str, origin: Origin, *, protected: bool = False, expires: float | None = None
    ) -> Branch:
        """A branch of the project that is on its way; raises ApiError when there are too many."""
        now, limits = self._world.time.now(), self._world.limits
        counts = (
            (limits.branches, len(project.branches), "branches"),
            (limits.unarchived_branches, len(project.branches), "unarchived branches"),
            (limits.protected_branches if protected else None, self._protected(project), "protected branches"),
        )
        for limit, count, what in counts:
            if limit is not None and count >= limit:
                raise over_quota(f"The project has reached its limit of {limit} {what}.")
        made = Branch(project, name, origin, now, now, now, expires=expires, protected=protected)
        project.branches[name] = made
        return made

    @staticmethod
    def _protected(project: Project) -> int:
        return sum(each.protected and each.deleted is None for each in project.branches.values())

    def add_primary(self, branch: Branch, sizing: Sizing) -> None:
        """The endpoint that every branch begins with."""
        self._endpoints.new(branch, PRIMARY, READ_WRITE, sizing)

    def ready(self, branch: Branch) -> None:
        """The branch is there, and its endpoints with it."""
        now = self._world.time.now()
        branch.state, branch.pending, branch.state_changed = "READY", None, now
        branch.logins_from = now + self._world.latencies.draw("login")
        for endpoint in branch.endpoints.values():
            self._endpoints.settle(endpoint)

    def create(self, call: Call, project: str) -> View:
        """Fork a branch. Takes the lock itself: the present of its parent is frozen without it."""
        world = self._world
        with world.lock:
            parent_project = world.project(project)
            name = names.check("branch_id", call.query.get("branch_id", ""))
            if name in parent_project.branches:
                return self._replace(call, parent_project.branches[name])
            given = spec(BRANCH, call.body)
            expires = self.expiration(given, world.time.now())
            source = self._source(parent_project, given)
            origin = Origin(source.name) if isinstance(source, Branch) else Origin(snapshot=source.name)
            protected = given.get("is_protected", False)
            _check_expiring(expires, protected=protected)
            branch = self.new(parent_project, name, origin, protected=protected, expires=expires)
        with self._removed_on_failure(branch):
            self._fill(branch, source, given)
            with world.lock:
                self.add_primary(branch, deepcopy(parent_project.sizing))
                return world.begin(
                    call,
                    branch.name,
                    "Branch",
                    Change(
                        run=lambda: self._endpoints.start(branch),
                        commit=lambda: self._made(branch),
                        undo=lambda: self._unmake(branch),
                    ),
                )

    def _made(self, branch: Branch) -> View:
        self.ready(branch)
        return views.branch(branch)

    def _unmake(self, branch: Branch) -> None:
        branch.project.branches.pop(branch.id, None)
        self.dispose(branch)

    @contextmanager
    def _removed_on_failure(self, branch: Branch) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._world.lock:
                self._unmake(branch)
            raise

    def _replace(self, call: Call, branch: Branch) -> View:
        if not call.flag("replace_existing") or branch.deleted is not None:
            raise already_exists("branch")
        given = spec(BRANCH, call.body)
        return self._change(call, branch, {name: value for name, value in given.items() if name not in SOURCE})

    def _source(self, project: Project, given: dict[str, Any]) -> Branch | Snapshot:
        wanted = given.get("source_snapshot")
        if wanted is not None:
            if len([name for name in SOURCE if name in given]) > 1:
                raise invalid("When source_snapshot is set, the other source fields must be empty.")
            return self._world_snapshot(project, wanted)
        if "source_branch_lsn" in given and "source_branch_time" in given:
            raise invalid("Only one of source_branch_lsn and source_branch_time can be provided.")
        path = given.get("source_branch", f"{project.name}/branches/{project.default_branch}")
        found = self.named(project, path)
        if found.expires is not None:
            raise bad_request(f"Cannot create a branch from '{found.name}': it has an expiration time.")
        return found

    @staticmethod
    def named(project: Project, path: str) -> Branch:
        """The branch that has this path, if its data can be copied; raises ApiError."""
        found = project.branches.get(path.removeprefix(f"{project.name}/branches/"))
        if found is None or found.name != path or found.deleted is not None:
            raise not_found("branch")
        if found.pending is not None:
            raise reconciling(found.name)
        return found

    @staticmethod
    def _world_snapshot(project: Project, path: str) -> Snapshot:
        found = project.snapshots.get(path.removeprefix(f"{project.name}/snapshots/"))
        if found is None or found.name != path:
            raise not_found("snapshot")
        return found

    def _fill(self, branch: Branch, source: Branch | Snapshot, given: dict[str, Any]) -> None:
        """Give the branch its data, as it is or was in ``source``, and the roles and databases that are in it."""
        world = self._world
        if isinstance(source, Snapshot):
            branch.store = world.new_store(branch.name, source.point)
        else:
            found = self.moment(source, given.get("source_branch_time"), given.get("source_branch_lsn"))
            branch.origin = Origin(source.name, found.last_lsn, given.get("source_branch_time", branch.created), None)
            branch.store = world.new_store(branch.name, found.point, like=source.store)
        branch.roles, branch.databases = deepcopy(source.roles), deepcopy(source.databases)

    def moment(self, source: Branch, time: float | None, lsn: str | None) -> Moment:
        """A state of ``source``: its present, or that of a time or position. Raises ApiError when it is not known."""
        now = self._world.time.now()
        if time is None and lsn is None:
            return source.store.present(now)
        if time is not None and time > now:
            raise invalid("Field 'spec.source_branch_time' must not be in the future.")
        if time is not None and time < max(source.created, now - source.project.retention):
            raise invalid(
                f"Field 'spec.source_branch_time' is outside of the branch's history, which begins at "
                f"{timestamp(max(source.created, now - source.project.retention))}."
            )
        try:
            found = source.store.past(now, time=time, lsn=lsn)
        except ValueError:
            raise invalid(f"Field 'spec.source_branch_lsn' must look like 16/B374D848, got '{lsn}'.") from None
        if found is None:
            raise self._unknown(source, timestamp(time) if time is not None else f"LSN {lsn}")
        return found

    @staticmethod
    def _unknown(source: Branch, wanted: str) -> ApiError:
        known = "; ".join(
            f"{timestamp(each.since)} to {timestamp(each.until)} (LSN {each.lsn} to {each.last_lsn})"
            for each in source.store.moments[-5:]
        )
        return bad_request(
            f"The emulator does not know the state of '{source.name}' at {wanted}: it keeps states in which branches "
            f"or snapshots were made, the last ones being {known}. Make one at the time you want to go back to."
        )

    # -- expiry

    def expiration(self, given: dict[str, Any], now: float) -> float | None:
        """When a branch expires, None for never; raises ApiError."""
        chosen = [name for name in EXPIRATION if name in given]
        if not chosen:
            raise invalid("One of expire_time, ttl, or no_expiry must be provided")
        if len(chosen) > 1:
            raise invalid(f"Only one of expire_time, ttl, or no_expiry can be provided, got {', '.join(chosen)}.")
        if chosen == ["no_expiry"]:
            if not given["no_expiry"]:
                raise invalid("Field 'no_expiry' should be set to true when provided.")
            return None
        at = float(given["expire_time"] if chosen == ["expire_time"] else now + given["ttl"])
        if at <= now:
            raise invalid("The expiration time must be in the future.")
        latest = now + self._world.limits.branch_ttl
        if at > latest + 1:  # a client's own clock may be a little ahead
            raise invalid(f"expiration time exceeds the maximum expiration time {timestamp(latest)}")
        return at

    # -- reading

    def get(self, call: Call, project: str, branch: str) -> View:
        """A branch; one that is deleted softly too."""
        return views.branch(self._world.branch(project, branch, deleted=True))

    def list(self, call: Call, project: str) -> View:
        """All branches of a project."""
        found = self._world.project(project).branches.values()
        shown = [each for each in found if call.flag("show_deleted") or each.deleted is None]
        return page([views.branch(each) for each in shown], "branches", call.query)

    # -- changing

    def update(self, call: Call, project: str, branch: str) -> View:
        """Change protection or expiration."""
        found = self._world.branch(project, branch)
        given = masked(BRANCH, call.body, call.query.get("update_mask", ""), groups={"expiration": EXPIRATION})
        for name in SOURCE:
            if name in given and call.query["update_mask"] not in ("*", "spec"):
                raise invalid(f"Field 'spec.{name}' cannot be changed.")
        return self._change(call, found, {name: value for name, value in given.items() if name not in SOURCE})

    def _change(self, call: Call, branch: Branch, given: dict[str, Any]) -> View:
        protected = given.get("is_protected", branch.protected)
        chosen = any(name in given for name in EXPIRATION)
        expires = self.expiration(given, self._world.time.now()) if chosen else branch.expires
        self._check_change(branch, expires, protected=protected)

        def commit() -> View:
            self._check_change(branch, expires, protected=protected)  # children may have come meanwhile
            branch.protected, branch.expires = protected, expires
            branch.updated = self._world.time.now()
            return views.branch(branch)

        return self._world.change(call, branch, branch.name, "Branch", Change(commit=commit))

    def _check_change(self, branch: Branch, expires: float | None, *, protected: bool) -> None:
        if expires is not None and (branch.is_default or branch.children):
            what = "the default branch" if branch.is_default else "a branch with children"
            raise bad_request(f"Cannot set an expiration time on {what}.")
        _check_expiring(expires, protected=protected)
        limit, others = self._world.limits.protected_branches, self._protected(branch.project) - branch.protected
        if protected and others >= limit:
            raise over_quota(f"The project has reached its limit of {limit} protected branches.")

    # -- deleting

    def delete(self, call: Call, project: str, branch: str) -> View:
        """Delete a branch, softly unless ``purge``."""
        world, purge = self._world, call.flag("purge")
        found = world.branch(project, branch, deleted=purge)
        self._check_deletable(found)

        def commit() -> None:
            now = world.time.now()
            found.state, found.state_changed, found.deleted, found.pending = "DELETED", now, now, None
            found.purge = now + world.limits.kept_after_delete

        def undo() -> None:
            found.pending = None

        change = Change(run=lambda: self.put_to_rest([found]), commit=commit, undo=undo)
        if purge:
            change = Change(run=lambda: self.dispose(found), commit=lambda: self._forget(found), undo=undo)
        view = world.change(call, found, found.name, "Branch", change)
        found.pending = "DELETED"  # nothing is forked from it any more
        return view

    def _check_deletable(self, branch: Branch) -> None:
        if branch.protected:
            raise bad_request("cannot delete protected branch")
        if branch.is_root:
            raise bad_request(
                f"Cannot delete root branch '{branch.name}'. Root branches cannot be deleted independently.",
                managed_by_parent(),
            )
        if branch.is_default:
            raise bad_request("cannot delete the default branch")
        if branch.children:
            raise bad_request(f"cannot delete branch with children: {', '.join(each.id for each in branch.children)}")
        if branch.deleted is None:
            self._world.settled(branch)

    @staticmethod
    def _forget(branch: Branch) -> None:
        branch.project.branches.pop(branch.id, None)

    def undelete(self, call: Call, project: str, branch: str) -> View:
        """Bring back a softly deleted branch."""
        found = self._world.branch(project, branch, deleted=True)
        if found.deleted is None:
            raise bad_request("branch is not deleted")

        def commit() -> View:
            found.state, found.state_changed = "READY", self._world.time.now()
            found.deleted = found.purge = None
            return views.branch(found)

        return self._world.change(
            call, found, found.name, "Branch", Change(run=lambda: self.open_all([found]), commit=commit)
        )

    def dispose(self, branch: Branch) -> None:
        """Everything of a branch goes but its entry."""
        for endpoint in list(branch.endpoints.values()):
            self._endpoints.close(endpoint)
        if branch.has_store:
            branch.store.remove()

    def dispose_all(self, branches: Iterable[Branch]) -> None:
        """As :meth:`dispose`, for many."""
        for branch in branches:
            self.dispose(branch)

    def put_to_rest(self, branches: Iterable[Branch]) -> None:
        """No endpoint listens any more; the data stays."""
        for branch in branches:
            for endpoint in branch.endpoints.values():
                self._endpoints.close(endpoint)
            branch.store.suspend()

    def open_all(self, branches: Iterable[Branch]) -> None:
        """The opposite of :meth:`put_to_rest`."""
        for branch in branches:
            for endpoint in branch.endpoints.values():
                self._endpoints.open(endpoint)

    def tick(self, now: float) -> None:
        """Delete what has expired, purge what was deleted long enough ago, let go of history that is too old."""
        with self._world.lock:
            all_of_them = [each for project in self._world.projects.values() for each in project.branches.values()]
            gone = [each for each in all_of_them if _is_due(each, now)]
            for branch in gone:
                self._forget(branch)
        self.dispose_all(gone)
        for branch in all_of_them:
            if branch not in gone and branch.has_store:
                branch.store.forget_before(now - branch.project.retention)


def _is_due(branch: Branch, now: float) -> bool:
    at = branch.purge if branch.deleted is not None else branch.expires
    return at is not None and at <= now and branch.pending is None and not branch.busy


def _check_expiring(expires: float | None, *, protected: bool) -> None:
    if expires is not None and protected:
        raise bad_request("A protected branch cannot have an expiration time.")
