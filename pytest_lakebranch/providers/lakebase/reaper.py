"""Deletes the branches that dead runs left in a project, and nothing else."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from pytest_lakebranch.providers.lakebase.api import View
from pytest_lakebranch.providers.lakebase.names import Name, is_past, is_sealed
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.state import ALIVE, CLOUD_RECORD, State, locked_if_free


def reap(project: Project, state: State, *, dry_run: bool = False, owned: bool = False) -> list[str]:
    """Delete what runs that died on this machine left, and whatever is past its death date; its paths. With ``owned``
    all that the project's owner has, but what runs have that live on this machine.

    A run lives as long as its host holds the lock in its directory, which stays until its branches are gone.
    All is tried; raises CloudError, or BranchError with what could not be deleted.
    """
    with contextlib.ExitStack() as stack:
        dead, living = {}, set()
        for path in sorted(state.runs.iterdir()):
            run = _recorded(path, project)
            if run and stack.enter_context(locked_if_free(path / ALIVE)):
                dead[run] = path
            else:
                living.add(run)

        def is_due(name: Name, view: View) -> bool:
            orphan = owned and name.owner == project.owner and name.run not in living
            return orphan or _is_due(name, view, set(dead), project)

        found = project.sweep(is_due, dry_run=dry_run)
        if not dry_run:
            for directory in dead.values():
                (directory / CLOUD_RECORD).unlink(missing_ok=True)
    return found


def _is_due(name: Name, view: View, dead: set[str], project: Project) -> bool:
    status, now = view.get("status") or {}, project.api.now()
    if name.run in dead:
        return not (project.settings.keep_template and is_sealed(name, status) and now < name.dies)
    return is_past(name, status, now)


def _recorded(path: Path, project: Project) -> str:
    try:
        stored = json.loads((path / CLOUD_RECORD).read_text())
    except (OSError, ValueError):
        return ""
    ours = stored.get("host") == project.api.client.host and stored.get("project") == project.api.project
    return str(stored.get("run", "")) if ours else ""
