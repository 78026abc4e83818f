"""Deletes the branches that dead runs left in a project, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from pytest_lakebranch import cloud_record
from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.providers.lakebase.api import View
from pytest_lakebranch.providers.lakebase.names import Name, is_kept_template, is_past
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.state import ALIVE, State, locked_if_free

LOG = logging.getLogger("pytest_lakebranch.lakebase")


def reap(project: Project, state: State, *, dry_run: bool = False, owned: bool = False) -> list[str]:
    """Delete what runs that died on this machine left, and whatever is past its death date; its paths. With ``owned``
    all that the project's owner has, but what runs have that live on this machine. What a dead run has kept stays.

    A run lives as long as its host holds the lock in its directory, which stays until its branches are gone.
    All is tried; raises CloudError, or BranchError with what could not be deleted.
    """
    with contextlib.ExitStack() as stack:
        dead: dict[Path, CloudRecord] = {}
        living: set[str] = set()
        for path in sorted(state.runs.iterdir()):
            record = cloud_record.read(path)
            if record is None or (record.host, record.project) != (project.api.client.host, project.api.project):
                continue
            if stack.enter_context(locked_if_free(path / ALIVE)):
                dead[path] = record
            else:
                living.add(record.run)
        runs = {record.run for record in dead.values()}
        kept = {path for record in dead.values() for path in record.kept}

        def is_due(name: Name, view: View) -> bool:
            orphan = owned and name.owner == project.owner and name.run not in living
            return orphan or (view["name"] not in kept and _is_due(name, view, runs, project))

        found = project.sweep(is_due, dry_run=dry_run)
        if not dry_run:
            for directory in dead:
                cloud_record.remove(directory)
    return found


def reaping(project: Project, state: State) -> threading.Thread:
    """A thread that reaps beside a run. What cannot be deleted is no reason not to run: the log tells."""

    def work() -> None:
        try:
            reap(project, state)
        except (LakebranchError, OSError) as error:
            LOG.warning("of what dead runs left in %s, not all could be deleted: %s", project.api.project, error)

    thread = threading.Thread(target=work, name="lakebranch-reaper", daemon=True)
    thread.start()
    return thread


def _is_due(name: Name, view: View, dead: set[str], project: Project) -> bool:
    status, now = view.get("status") or {}, project.api.now()
    if name.run in dead:
        return not (is_kept_template(name, status) and now < name.dies)
    return is_past(name, status, now)
