"""Deletes the branches that dead runs left in a project, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_lakebranch.providers.lakebase.names import GRACE, Name
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.state import CLOUD_RECORD, State


def reap(project: Project, state: State, *, dry_run: bool = False) -> list[str]:
    """Delete what runs that died on this machine left, and whatever of ours is past its death date; its paths.

    A run lives as long as its host holds the lock in its directory, which stays until its branches are gone.
    Raises CloudError.
    """
    with contextlib.ExitStack() as stack:
        dead = dict(stack.enter_context(_dead(path, project)) for path in sorted(state.runs.iterdir()))
        dead.pop("", None)
        now = project.api.now()
        found = project.sweep(lambda name, _path: _is_due(name, set(dead), now), dry_run=dry_run)
        if not dry_run:
            for directory in dead.values():
                (directory / CLOUD_RECORD).unlink(missing_ok=True)
    return found


def _is_due(name: Name, dead: set[str], now: float) -> bool:
    return name.run in dead or now > name.dies + GRACE


@contextlib.contextmanager
def _dead(path: Path, project: Project) -> Iterator[tuple[str, Path]]:
    """The run of this directory if it is dead and was in our project, else an empty one; no host can claim it here."""
    run = _recorded(path, project)
    if not run:
        yield "", path
        return
    try:
        descriptor = os.open(path / "alive.lock", os.O_RDWR)
    except FileNotFoundError:
        yield "", path
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield "", path
    else:
        yield run, path
    finally:
        os.close(descriptor)


def _recorded(path: Path, project: Project) -> str:
    try:
        stored = json.loads((path / CLOUD_RECORD).read_text())
    except (OSError, ValueError):
        return ""
    ours = stored.get("host") == project.api.client.host and stored.get("project") == project.api.project
    return str(stored.get("run", "")) if ours else ""
