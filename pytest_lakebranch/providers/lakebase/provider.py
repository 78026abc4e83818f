"""The Lakebase provider: branches of a project's branch, and the templates that steps make of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_lakebranch import amounts
from pytest_lakebranch.errors import BaseError, BranchError, LakebranchError, UpkeepError
from pytest_lakebranch.model import ForkPoint, ProviderFacts
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.lakebase import template
from pytest_lakebranch.providers.lakebase.api import Host, View
from pytest_lakebranch.providers.lakebase.branches import Branches
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute, line
from pytest_lakebranch.providers.lakebase.family import Family
from pytest_lakebranch.providers.lakebase.moments import AT, is_position, moment
from pytest_lakebranch.providers.lakebase.names import Name, is_past
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.providers.lakebase.reaper import Reaping
from pytest_lakebranch.providers.lakebase.record import Record
from pytest_lakebranch.providers.lakebase.sweep import Limit
from pytest_lakebranch.providers.lakebase.template import Templates
from pytest_lakebranch.providers.lakebase.upkeep import Upkeep
from pytest_lakebranch.providers.lakebase.upstream import AT_FIRST, LATER_PATIENCE, NOT_YET, Door, kept_out
from pytest_lakebranch.state import State
from pytest_lakebranch.waiting import Clock, Deadline

LOG = logging.getLogger("pytest_lakebranch.lakebase")
FORMAT = 1
LIFE = 86400.0
"""Seconds until the death date of what a run makes: no run takes longer, and a kept template is never older."""
REAP_SECONDS = 60.0
"""How long the end of a run waits until what dead runs left is deleted; the next run goes on with it."""


class LakebaseProvider:
    """See Provider. Everything but kept templates is gone after close().

    A fork point's location is a branch's path, and after an ``@`` a position in its log or a time, where it is not
    the branch as it is. In ``run_directory`` it is noted where branches are, until they are gone. Raises CloudError.
    """

    def __init__(
        self,
        project: Project,
        *,
        locks: Path,
        sockets: Path,
        run_directory: Path | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._project = project
        self._settings = project.settings
        self._branches = Branches(project.api, project.budget, project.ttl, project.retention)
        self._locks = locks
        self._sockets = sockets
        self._wall = wall
        self._dies = wall() + LIFE
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._alive: dict[str, LakebaseCompute] = {}
        self._unlogged: dict[str, bool] = {}
        self._reaping: Reaping | None = None
        self._over = False
        self._family = Family(self._branches.delete)
        self._templates = Templates(project, wall)
        self._record = Record(project, run_directory, self._dies)
        self._upkeep = Upkeep(self._branches, self._living, wall)

    @property
    def facts(self) -> ProviderFacts:
        """See Provider."""
        return self._project.facts

    @property
    def root_key(self) -> str:
        """See Provider. What is in the source is not part of it: a template is as old as its run, or a day."""
        decisive = {
            "format": FORMAT,
            "source": self._project.source_uid,
            "database": self._project.database,
            "user": self._project.user,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def layered(self) -> bool:
        """See Provider."""
        return False

    @property
    def start_seconds(self) -> float | None:
        """See Provider."""
        return max(1.0, self._branches.pace.seconds)

    @property
    def at_a_time(self) -> int | None:
        """See Provider."""
        return min(self._project.budget.most, 32)

    @property
    def room(self) -> int | None:
        """See Provider."""
        return self._project.budget.room

    def when_short(self, short: Callable[[], None]) -> None:
        """See Provider."""
        self._project.budget.short = short

    # -- templates

    def cached(self, key: str) -> ForkPoint | None:
        """See Provider. Without steps, branches are forked from the source itself."""
        if key == self.root_key:
            return ForkPoint(key, self._project.source)
        path = self._templates.find(key)
        return None if path is None else ForkPoint(key, path)

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[None]:
        """See Provider."""
        from filelock import FileLock

        self._locks.mkdir(mode=0o700, exist_ok=True)
        with FileLock(self._locks / f"{key[:32]}.lock"):
            self._templates.look_again()
            yield

    def build(self, name: str, at: ForkPoint | None, *, key: str = "") -> Compute:
        """See Provider."""
        source = ForkPoint(self.root_key, self._project.source) if at is None else at
        compute = self._make(name, self._templates.tags(key or name), source)
        try:
            template.prepare(compute)
        except BaseException:
            compute.discard()
            raise
        return compute

    def incoming(self, compute: Compute) -> None:
        """See Provider. The files of endpoints are out of reach."""

    def check_quiet(self, compute: Compute) -> None:
        """See Provider."""
        template.check_quiet(_ours(compute))

    def seal(self, compute: Compute, key: str) -> ForkPoint:
        """See Provider. The mark of a sealed template is that it has no expiry any more."""
        ours = _ours(compute)
        try:
            template.check_quiet(ours)
            template.finish(ours)
            self._upkeep.forever(ours.path)
        except LakebranchError as error:
            ours.discard()
            raise BaseError(f"the template branch could not be sealed: {error}") from error
        with self._lock:
            if self._alive.pop(ours.path, None) is None:
                raise BaseError("the template was not sealed: the worker that built it died, or the run is ending.")
            self._templates.add(key, ours.path)
        ours.close()
        return ForkPoint(key, ours.path)

    # -- branches

    def start(self, name: str, at: ForkPoint) -> Compute:
        """See Provider."""
        compute = self._make(name, _attempts(name), at)
        if at.key not in self._unlogged:
            self._unlogged[at.key] = self._has_unlogged(compute)
        compute.unlogged = self._unlogged[at.key]
        return compute

    def _has_unlogged(self, compute: LakebaseCompute) -> bool:
        import psycopg

        try:
            return template.has_unlogged_sequences(compute)
        except psycopg.Error as error:
            compute.discard()
            raise BranchError(
                f"branch {compute.name} cannot be used as role {compute.user!r} in database {compute.dbname!r}: "
                f"{line(error, -1)}. Set lakebranch_database and lakebranch_user to what is in "
                f"{self._project.source}, or give lakebranch_base steps: these make both."
            ) from error

    def _make(self, name: str, tags: Iterator[str], at: ForkPoint) -> LakebaseCompute:
        """A branch that lets us in. On failure nothing of it is left, or soon."""
        deadline = Deadline(amounts.span(self._settings.deadline))
        path, _, when = at.location.partition(AT)
        ids = (str(Name(self._project.owner, self._project.run, tag, self._dies)) for tag in tags)
        with self._family.counted(path):
            self._check_not_over()
            made, host, compute = self._branches.create(
                ids,
                lambda: self._source(path, when, at),
                deadline,
                lambda made, host: self._open(name, made, host, deadline),
            )
            with self._deleted_on_failure(made):
                self._register(compute, path, "" if host.is_small else host.endpoint)
        return compute

    def _check_not_over(self) -> None:
        with self._lock:
            if self._over:
                raise BranchError("the run is ending: no more branches are made.")

    def _source(self, path: str, when: str, at: ForkPoint) -> dict[str, str]:
        parent = self._alive.get(path)
        if not when or (parent is not None and parent.is_still(at)):
            return {"source_branch": path}
        return {"source_branch": path, "source_branch_lsn" if is_position(when) else "source_branch_time": when}

    @contextlib.contextmanager
    def _deleted_on_failure(self, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._branches.delete(path)
            raise

    def _open(self, name: str, path: str, host: Host, deadline: Deadline) -> LakebaseCompute:
        """Wait until a login succeeds."""
        import psycopg

        project = self._project
        door = Door(
            host.host,
            self._settings.endpoint_port,
            project.identity,
            lambda until: project.api.credential(host.endpoint, until),
            authorities=project.authorities,
            stands_for=project.stands_for,
            clock=Clock(now=self._wall),
            patience=deadline.left,
            passing=AT_FIRST,
        )
        sockets = self._sockets / f"c{next(self._numbers)}"
        compute = LakebaseCompute(self, name, path, door, sockets, project.user, project.database, now=self._wall)
        began, welcome = door.clock.now(), self._branches.welcome
        door.clock.sleep(min(welcome.first_look, deadline.left))
        try:
            compute.open_control()
        except psycopg.Error as error:
            compute.close()
            raise kept_out(door, f"{name} ({path})", deadline, line(error, -1)) from error
        except BaseException:
            compute.close()
            raise
        welcome.learn(door.knocked - began, at_once=door.knocks == 1)
        door.patience, door.passing = min(door.patience, LATER_PATIENCE), NOT_YET
        return compute

    def _register(self, compute: LakebaseCompute, parent: str, large: str) -> None:
        with self._lock:
            if self._over:
                compute.close()
                raise BranchError(f"{compute.name} was not started: the run is over.")
            self._alive[compute.path] = compute
            self._upkeep.begin(compute.path, large=large)
            self._family.born(compute.path, parent)

    def _living(self) -> list[LakebaseCompute]:
        with self._lock:
            return list(self._alive.values())

    # -- what a compute asks of us

    def fork_point(self, compute: LakebaseCompute, position: str) -> ForkPoint:
        """See Owner."""
        self._upkeep.forever(compute.path)
        location = f"{compute.path}{AT}{position}"
        return ForkPoint(location, location)

    def leave(self, compute: LakebaseCompute, until: float) -> float:
        """See Owner."""
        path = compute.path
        self._record.keep(path)
        try:
            # One whose child is kept has no expiry, and goes after its death date.
            ends = self._dies if self._family.is_left(path) else self._upkeep.until(path, until)
        except LakebranchError:
            self.take_back(compute)
            raise
        with self._lock:
            self._alive.pop(path, None)
        self._upkeep.forget(path)
        for _ in range(1 + self._family.leave(path)):
            self._project.budget.give_back()
        return ends

    def take_back(self, compute: LakebaseCompute) -> None:
        """See Owner."""
        with self._lock:
            if self._alive.pop(compute.path, None) is None:
                return
        self._upkeep.forget(compute.path)
        if not self._family.doom(compute.path):
            self._project.budget.give_back()

    def reap(self, state: State) -> None:
        """Delete beside the run what dead runs of this machine left in the project."""
        self._reaping = Reaping(self._project, state)

    # -- the end

    def at(self, when: str) -> ForkPoint:
        """See Provider."""
        location = f"{self._project.source}{AT}{moment(when)}"
        return ForkPoint(location, location)

    def forget(self, at: ForkPoint) -> None:
        """See Provider. A fork point is a place in a branch's history, which costs nothing."""

    def close(self) -> None:
        """See Provider. Raises ExceptionGroup with what could not be deleted, or not looked after."""
        with self._lock:
            if self._over:
                return
            self._over = True
        self._project.budget.close()
        self._upkeep.close()
        troubles = self._upkeep.troubles
        self._discard_all()
        self._branches.close()
        dead = [] if self._reaping is None else self._reaping.end(REAP_SECONDS)
        left = self._sweep()
        self._project.close()
        if not left:
            self._record.remove()
        remarks = [UpkeepError(f"not looked after: {each}") for each in troubles + self._branches.troubles]
        if found := [*left, *remarks, *dead]:
            raise ExceptionGroup("branches were not deleted, or not looked after", found)

    def _discard_all(self) -> None:
        for compute in self._living():
            compute.discard(disposable=True)
        if not self._settings.keep_template:
            for path in self._templates.paths:
                if not self._family.is_left(path):
                    self._upkeep.forget(path)
                self._family.doom(path)

    def _sweep(self) -> list[Exception]:
        """Delete what landed although we were told that it had failed, and what is ours and past its death date: what
        machines leave that are gone themselves. What could not be deleted.
        """
        try:
            limit = Limit(Deadline(self._project.api.patience))
            self._project.sweep(self._project.branches(), self._may_go, limit)
        except LakebranchError as error:
            return [error]
        return []

    def _may_go(self, name: Name, view: View) -> bool:
        if name.run != self._project.run:
            return name.owner == self._project.owner and is_past(name, view.get("status") or {}, self._wall())
        kept = self._settings.keep_template and view["name"] in self._templates.paths
        return not kept and not self._family.is_left(view["name"])


def _attempts(name: str) -> Iterator[str]:
    """Words for a branch's name: its own, and others for when that has been used up."""
    yield name
    yield from (f"{name}r{number}" for number in itertools.count(2))


def _ours(compute: Compute) -> LakebaseCompute:
    if not isinstance(compute, LakebaseCompute):
        raise TypeError(f"{compute.name} is no branch of the Lakebase provider")
    return compute
