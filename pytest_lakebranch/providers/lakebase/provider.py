"""The Lakebase provider: branches of a project's branch, and the templates that steps make of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pytest_lakebranch import amounts
from pytest_lakebranch.errors import BaseError, BranchError, CloudError, LakebranchError
from pytest_lakebranch.model import ForkPoint, ProviderFacts
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.lakebase import template
from pytest_lakebranch.providers.lakebase.branches import SHORTEST_TTL, Branches
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute
from pytest_lakebranch.providers.lakebase.names import Name, parse
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.providers.lakebase.upstream import LATER_PATIENCE, Door
from pytest_lakebranch.waiting import Clock, Deadline

FORMAT = 1
LIFE = 86400.0
"""Seconds until the death date of what a run makes: no run takes longer, and a kept template is never older."""
STILL_LONG = 7200.0
"""Seconds that a kept template must still live to be used: longer than a run takes."""
LOOK_SECONDS = 5.0
REST_AFTER = 30.0
"""Seconds after which a spare's endpoint may go to sleep."""
AT = "@"


class LakebaseProvider:
    """See Provider. Everything but kept templates is gone after close().

    A fork point's location is a branch's path, and after an ``@`` a position in its log or a time, where it is not
    the branch as it is. Raises ConfigError and CloudError.
    """

    def __init__(self, project: Project, *, locks: Path, sockets: Path, wall: Callable[[], float] = time.time) -> None:
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
        self._renewed: dict[str, float] = {}
        self._children: Counter[str] = Counter()
        self._parent_of: dict[str, str] = {}
        self._doomed: set[str] = set()
        self._parents: set[str] = set()
        self._left: set[str] = set()
        self._sealed: dict[str, str] = {}
        self._unlogged: dict[str, bool] = {}
        self._kept: dict[str, str] | None = None
        self._over = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="lakebranch-renewal", daemon=True)
        self._housekeeper.start()

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
        path = self._sealed.get(key) or self._kept_templates().get(_tag(key))
        return None if path is None else ForkPoint(key, path)

    def _kept_templates(self) -> dict[str, str]:
        """Templates of former runs, by tag: what has no expiry was sealed. Asked once, and only if any are wanted."""
        if not self._settings.keep_template:
            return {}
        with self._lock:
            if self._kept is None:
                self._kept = {tag: path for tag, path in map(self._as_template, self._project.api.branches()) if tag}
            return self._kept

    def _as_template(self, view: dict[str, Any]) -> tuple[str, str]:
        path, status = str(view.get("name", "")), view.get("status") or {}
        name = parse(path.rpartition("/")[2])
        sound = status.get("current_state") == "READY" and not status.get("expire_time")
        if name is None or name.owner != self._project.owner or name.tag[0] != "t" or not sound:
            return "", path
        return (name.tag if name.dies - self._wall() > STILL_LONG else ""), path

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[None]:
        """See Provider."""
        from filelock import FileLock

        self._locks.mkdir(mode=0o700, exist_ok=True)
        with FileLock(self._locks / f"{key[:32]}.lock"):
            with self._lock:
                self._kept = None  # another run may have built it while we waited
            yield

    def build(self, name: str, at: ForkPoint | None, *, key: str = "") -> Compute:
        """See Provider."""
        source = ForkPoint(self.root_key, self._project.source) if at is None else at
        compute = self._make(name, _tag(key or name), source)
        try:
            template.prepare(compute)
        except BaseException:
            compute.discard()
            raise
        return compute

    def check_quiet(self, compute: Compute) -> None:
        """See Provider."""
        template.check_quiet(_ours(compute))

    def seal(self, compute: Compute, key: str) -> ForkPoint:
        """See Provider. The mark of a sealed template is that it has no expiry any more."""
        ours = _ours(compute)
        try:
            template.check_quiet(ours)
            template.finish(ours)
            self._branches.keep_forever(ours.path)
        except LakebranchError as error:
            ours.discard()
            raise BaseError(f"the template branch could not be sealed: {error}") from error
        with self._lock:
            if self._alive.pop(ours.path, None) is None:
                raise BaseError("the template was not sealed: the worker that built it died, or the run is ending.")
            self._sealed[key] = ours.path
        ours.close()
        return ForkPoint(key, ours.path)

    # -- branches

    def start(self, name: str, at: ForkPoint) -> Compute:
        """See Provider."""
        compute = self._make(name, name, at)
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
                f"{str(error).strip().splitlines()[-1]}. Set lakebranch_database and lakebranch_user to what is in "
                f"{self._project.source}, or give lakebranch_base steps: these make both."
            ) from error

    def _make(self, name: str, tag: str, at: ForkPoint) -> LakebaseCompute:
        """A branch that lets us in. On failure nothing of it is left, or soon."""
        deadline = Deadline(amounts.span(self._settings.deadline))
        path, _, moment = at.location.partition(AT)
        branch_id = str(Name(self._project.owner, self._project.run, tag, self._dies))
        with self._counted(path):
            made, host = self._branches.create(branch_id, self._source(path, moment, at), deadline)
            with self._deleted_on_failure(made):
                compute = self._open(name, made, host.host, host.endpoint, deadline)
                self._register(compute, path)
        if not host.is_small:
            self._branches.later(self._make_small, made, host.endpoint)
        return compute

    def _source(self, path: str, moment: str, at: ForkPoint) -> dict[str, str]:
        parent = self._alive.get(path)
        if not moment or (parent is not None and parent.is_still(at)):
            return {"source_branch": path}
        which = "source_branch_lsn" if "/" in moment else "source_branch_time"
        return {"source_branch": path, which: moment}

    @contextlib.contextmanager
    def _counted(self, parent: str) -> Iterator[None]:
        """Keep the parent from being deleted while a child is made; it stays counted when that succeeds."""
        with self._lock:
            if self._over.is_set() or parent in self._doomed:
                raise BranchError("the run is ending: no more branches are made.")
            self._children[parent] += 1
        try:
            yield
        except BaseException:
            self._child_gone(parent)
            raise

    @contextlib.contextmanager
    def _deleted_on_failure(self, path: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._branches.delete(path)
            raise

    def _open(self, name: str, path: str, host: str, endpoint: str, deadline: Deadline) -> LakebaseCompute:
        """Wait until a login succeeds."""
        import psycopg

        project = self._project
        door = Door(
            host,
            self._settings.endpoint_port,
            project.identity,
            lambda until: project.api.credential(endpoint, until),
            authorities=project.authorities,
            stands_for=project.stands_for,
            clock=Clock(now=self._wall),
            patience=deadline.left,
        )
        sockets = self._sockets / f"c{next(self._numbers)}"
        compute = LakebaseCompute(self, name, path, door, sockets, project.user, project.database, now=self._wall)
        try:
            compute.open_control()
        except psycopg.Error as error:
            compute.close()
            said = str(error).strip().splitlines()[-1]
            raise CloudError(
                f"branch {name} ({path}) lets nobody in after {deadline.seconds - deadline.left:.0f} s: {said}",
                hint=f"Does role {project.identity!r} exist in the source branch? Who made the project has one.",
            ) from error
        except BaseException:
            compute.close()
            raise
        door.patience = min(door.patience, LATER_PATIENCE)
        return compute

    def _register(self, compute: LakebaseCompute, parent: str) -> None:
        with self._lock:
            if self._over.is_set():
                compute.close()
                raise BranchError(f"{compute.name} was not started: the run is over.")
            self._alive[compute.path] = compute
            self._renewed[compute.path] = self._wall()
            self._parent_of[compute.path] = parent

    def _make_small(self, path: str, endpoint: str) -> None:
        if path not in self._alive:
            return
        try:
            self._project.api.make_small(endpoint)
        except CloudError as error:
            if error.status != 404:  # deleted meanwhile
                raise

    # -- what a compute asks of us

    def fork_point(self, compute: LakebaseCompute, position: str) -> ForkPoint:
        """See Owner."""
        with self._lock:
            lasting = compute.path in self._parents
        if not lasting:
            self._branches.keep_forever(compute.path)
            with self._lock:
                self._parents.add(compute.path)
        location = f"{compute.path}{AT}{position}"
        return ForkPoint(location, location)

    def leave(self, compute: LakebaseCompute, until: float) -> None:
        """See Owner."""
        seconds = max(SHORTEST_TTL, min(until - self._wall(), self._branches.retention))
        try:
            self._project.api.set_expiration(compute.path, {"ttl": f"{seconds:.0f}s"})
        except LakebranchError:
            self.take_back(compute)
            raise
        with self._lock:
            self._left.add(compute.path)
            self._alive.pop(compute.path, None)
        self._project.budget.give_back()
        self._child_gone(self._parent_of.pop(compute.path))

    def take_back(self, compute: LakebaseCompute) -> None:
        """See Owner."""
        with self._lock:
            if self._alive.pop(compute.path, None) is None:
                return
            if self._children[compute.path]:
                self._doomed.add(compute.path)
                return
        self._remove(compute.path)

    def _remove(self, path: str) -> None:
        """Delete a branch without children, and then its parent if that waits for it."""
        self._branches.delete(path)
        parent = self._parent_of.pop(path, None)
        if parent is not None:
            self._child_gone(parent)

    def _child_gone(self, parent: str) -> None:
        with self._lock:
            self._children[parent] -= 1
            ready = parent in self._doomed and not self._children[parent]
            self._doomed -= {parent} if ready else set()
        if ready:
            self._remove(parent)

    # -- time

    def _keep_house(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.tick()

    def tick(self) -> None:
        """Renew what would expire, and let spares' endpoints go to sleep. Done all the time anyway."""
        with self._lock:
            alive = list(self._alive.values())
        for compute in alive:
            compute.rest_if_idle(REST_AFTER)
            due = self._wall() - self._renewed.get(compute.path, 0.0) > self._branches.ttl / 3
            if due and compute.path not in self._parents:
                self._renew(compute)

    def _renew(self, compute: LakebaseCompute) -> None:
        try:
            self._project.api.set_expiration(compute.path, self._branches.expiration)
        except LakebranchError as error:
            if compute.path in self._alive:
                self._branches.troubles.append(error)
        self._renewed[compute.path] = self._wall()

    # -- the end

    def at(self, when: str) -> ForkPoint:
        """See Provider."""
        location = f"{self._project.source}{AT}{when}"
        return ForkPoint(location, location)

    def forget(self, at: ForkPoint) -> None:
        """See Provider. A fork point is a place in a branch's history, which costs nothing."""

    def close(self) -> None:
        """See Provider. Raises ExceptionGroup with what could not be deleted."""
        if self._over.is_set():
            return
        self._over.set()
        self._project.budget.close()
        self._housekeeper.join()
        with self._lock:
            alive = list(self._alive.values())
        for compute in alive:
            compute.discard(disposable=True)
        if not self._settings.keep_template:
            for path in self._sealed.values():
                self._doom(path)
        self._branches.close()
        self._sweep()
        self._project.close()
        if self._branches.troubles:
            raise BaseExceptionGroup("branches were left behind", self._branches.troubles)

    def _doom(self, path: str) -> None:
        with self._lock:
            if self._children[path]:
                self._doomed.add(path)
                return
        self._remove(path)

    def _sweep(self) -> None:
        """Delete what landed although we were told that it had failed."""
        keep = set(self._sealed.values()) if self._settings.keep_template else set()
        try:
            self._project.sweep(lambda name, path: name.run == self._project.run and path not in keep | self._left)
        except LakebranchError as error:
            self._branches.troubles.append(error)


def _tag(key: str) -> str:
    return f"t{key[:12]}"


def _ours(compute: Compute) -> LakebaseCompute:
    if not isinstance(compute, LakebaseCompute):
        raise TypeError(f"{compute.name} is no branch of the Lakebase provider")
    return compute
