"""The runs on this machine and their branches, as their directories tell; nothing is changed or connected to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pytest_lakebranch import kept
from pytest_lakebranch.branches.reaper import is_dead
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.ledger import entries
from pytest_lakebranch.providers.local import branch_file
from pytest_lakebranch.providers.local.branch_file import BranchFile
from pytest_lakebranch.state import State

JUST_NOW = 1.0
Standing = Literal["running", "starting", "left behind", "over"]


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that has not ended, by the ledger."""

    branch: str
    test: str
    worker: str
    purpose: str


@dataclass(frozen=True, slots=True)
class BranchFacts:
    """One branch: its directory, what the directory says, the lease it is on, and the note of one that is kept; a spare
    has neither.
    """

    run: str
    directory: Path
    file: BranchFile
    lease: Held | None
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One run: whether it lives, when it began, the project's root directory where that is known.

    Of one that is ``over`` only kept branches are left.
    """

    name: str
    path: Path
    standing: Standing
    began: float
    root: str | None
    branches: tuple[BranchFacts, ...]


def runs(state: State) -> list[RunFacts]:
    """All runs, the latest first."""
    found = {run.name: run for path in state.runs.glob("[!.]*") if path.is_dir() and (run := _run(path)) is not None}
    for branch in _kept(state):
        run = found.get(branch.run) or _over(state, branch)
        found[branch.run] = replace(run, branches=(*run.branches, branch))
    return sorted(found.values(), key=lambda run: -run.began)


def _kept(state: State) -> Iterable[BranchFacts]:
    for directory in kept.directories(state):
        note, file = kept.read(directory), branch_file.read(directory)
        if note is not None and file is not None:
            yield BranchFacts(note.run, directory, file, None, note)


def _over(state: State, branch: BranchFacts) -> RunFacts:
    assert branch.kept is not None  # noqa: S101  (of a run that is over nothing else is left)
    return RunFacts(branch.run, state.kept, "over", branch.file.made, branch.kept.root, ())


def _run(path: Path) -> RunFacts | None:
    try:
        standing = _standing(path)
        order = _order(path)
        held = _held(path / "ledger.jsonl")
        root = order.get("settings", {}).get("root")
        began = (path / "run.json" if order else path).stat().st_mtime
        return RunFacts(path.name, path, standing, began, root, tuple(_branches(path, held)))
    except FileNotFoundError:  # it ended while we looked
        return None


def _standing(path: Path) -> Standing:
    """A lock that was made just now is not tried: its host may be about to take it."""
    lock = path / "alive.lock"
    if lock.exists() and time.time() - lock.stat().st_mtime < JUST_NOW:
        return "running"
    if is_dead(path):
        return "left behind"
    return "running" if lock.exists() else "starting"


def _order(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads((path / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _held(ledger: Path) -> dict[str, Held]:
    """The open leases by branch. A line that is no entry of ours is passed over."""
    open_leases: dict[str, Held] = {}
    for entry in entries(ledger) if ledger.exists() else ():
        lease = str(entry.get("lease"))
        if entry.get("event") == "lease":
            facts = (str(entry.get(name, "")) for name in ("branch", "test", "worker", "purpose"))
            open_leases[lease] = Held(*facts)
        elif entry.get("event") == "release":
            open_leases.pop(lease, None)
    return {held.branch: held for held in open_leases.values()}


def _branches(path: Path, held: dict[str, Held]) -> Iterable[BranchFacts]:
    folder = path / "branches"
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else ():
        directory = Path(entry.path)
        if (file := branch_file.read(directory)) is not None:
            yield BranchFacts(path.name, directory, file, held.get(file.name))
