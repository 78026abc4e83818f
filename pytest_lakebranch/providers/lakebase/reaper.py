"""Deletes the branches that dead runs left in a project, and nothing else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Container, Iterator
from pathlib import Path

from pytest_lakebranch import cloud_record
from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.errors import LakebranchError, UpkeepError
from pytest_lakebranch.providers.lakebase.api import View
from pytest_lakebranch.providers.lakebase.names import Name, is_kept_template, is_past, is_same
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.providers.lakebase.sweep import Limit
from pytest_lakebranch.state import ALIVE, State, locked_if_free
from pytest_lakebranch.waiting import Deadline


def reap(
    project: Project, state: State, limit: Limit | None = None, *, dry_run: bool = False, owned: bool = False
) -> list[str]:
    """Delete what runs that died on this machine left, and whatever is past its death date; its paths. With ``owned``
    all that the project's owner has, but what runs have that live on this machine. What a dead run has kept stays, and
    so do templates that others of the same identity may use.

    A run lives as long as its host holds the lock in its directory, which stays until its branches are gone. What
    another identity's runs left is not ours to delete, and stays noted.
    All is tried within the limit; raises CloudError, or BranchError with what could not be deleted.
    """
    with _dead(project, state) as dead:
        views = project.branches()
        living = _living(project, state, dead) if owned else set()  # not before: a run that starts has a branch soon
        runs = {record.run for record in dead.values()}
        kept = {path for record in dead.values() for path in record.kept}

        def is_due(name: Name, view: View) -> bool:
            orphan = owned and name.owner == project.owner and name.run not in living
            return (orphan and not _is_for_others(name, view, project)) or (
                view["name"] not in kept and _is_due(name, view, runs, project)
            )

        found = project.sweep(views, is_due, limit, dry_run=dry_run)
        if not dry_run:
            for directory in dead:
                cloud_record.remove(directory)
    return found


@contextlib.contextmanager
def _dead(project: Project, state: State) -> Iterator[dict[Path, CloudRecord]]:
    """The dead runs of our identity in the project, by their directories, whose locks are held in the block."""
    with contextlib.ExitStack() as stack:
        dead: dict[Path, CloudRecord] = {}
        for path in _directories(project, state):
            if stack.enter_context(locked_if_free(path / ALIVE)):
                record = cloud_record.read(path)  # once more: what it kept, it may have noted just before it died
                dead |= {} if record is None else {path: record}
        yield dead


def _living(project: Project, state: State, but: Container[Path]) -> set[str]:
    """The runs of our identity in the project that live, by what their branches' names say."""
    found = set()
    for path, record in _directories(project, state).items():
        if path not in but:
            with locked_if_free(path / ALIVE) as is_dead:
                found |= set() if is_dead else {record.run}
    return found


def _directories(project: Project, state: State) -> dict[Path, CloudRecord]:
    """The directories of the runs of our identity in the project, living and dead."""
    where = (project.api.client.host, project.api.project)
    read = {path: cloud_record.read(path) for path in sorted(state.runs.iterdir())}
    return {
        path: record
        for path, record in read.items()
        if record is not None and (record.host, record.project) == where and is_same(record.owner, project.owner)
    }


def _is_for_others(name: Name, view: View, project: Project) -> bool:
    """Whether a branch is a template that later runs may use, on whosever behalf."""
    return is_kept_template(name, view.get("status") or {}) and project.api.now() < name.dies


def _is_due(name: Name, view: View, dead: set[str], project: Project) -> bool:
    if name.run in dead:
        return not _is_for_others(name, view, project)
    return is_past(name, view.get("status") or {}, project.api.now())


class Reaping:
    """Reaps beside a run, in a thread of its own, until it is done or told to end."""

    def __init__(self, project: Project, state: State) -> None:
        self._limit = Limit()
        self._trouble: LakebranchError | OSError | None = None
        self._thread = threading.Thread(target=self._work, args=(project, state), name="lakebranch-reaper", daemon=True)
        self._thread.start()

    def _work(self, project: Project, state: State) -> None:
        try:
            reap(project, state, self._limit)
        except (LakebranchError, OSError) as error:
            self._trouble = error

    def end(self, seconds: float) -> list[UpkeepError]:
        """Go on for so many seconds at most, and begin nothing after that; what is left then the next run deletes. Why
        there is any.
        """
        self._limit.end = Deadline(seconds)
        self._thread.join(seconds)
        why = f"not done after {seconds:.0f} s" if self._thread.is_alive() else self._trouble
        return [] if why is None else [UpkeepError(f"of dead runs: {why}")]
