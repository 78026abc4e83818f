"""What ``lakebranch open`` is to open: found by a test's node id, a branch's name, or a layer's key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.cli.base import keys
from pytest_lakebranch.cli.project import Project
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.host.census import BranchFacts, RunFacts, runs
from pytest_lakebranch.kept import in_use
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.local.cache import StoredLayer, matching, stored
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.providers.local.reopen import bringer
from pytest_lakebranch.state import State

BASE = "base"
SHORTEST_KEY = 4


@dataclass(frozen=True, slots=True)
class Layer:
    """A sealed layer."""

    key: str
    sealed: Path
    settings: Settings

    @property
    def name(self) -> str:
        """For a person."""
        return f"layer {self.key[:12]}"

    def fork_point(self, provider: LocalProvider) -> ForkPoint:
        """Where a copy of it starts; raises BranchError."""
        found = provider.cached(self.key)
        if found is None:
            raise BranchError(f"{self.name} is damaged, and was removed from the cache. The next run builds it anew.")
        return found


@dataclass(frozen=True, slots=True)
class Left:
    """A branch of a run: living, dead or kept."""

    branch: BranchFacts
    settings: Settings

    @property
    def sealed(self) -> Path:
        """What it was made from."""
        return Path(self.branch.file.sealed)

    @property
    def name(self) -> str:
        """For a person."""
        return f"branch {self.branch.run[:12]}/{self.branch.file.name}"

    def fork_point(self, provider: LocalProvider) -> ForkPoint:
        """Where a copy of its present, or last, state starts; raises BranchError."""
        with in_use(self.branch.directory) as there:
            if not there:
                raise BranchError(f"{self.name} is gone: its run, or its time, has just ended.")
            bring = bringer(self.branch.directory, self.branch.file)
            return provider.adopt(f"opening {self.name}", bring)[0]


def find(wanted: str, *, project: Project, state: State) -> Layer | Left:
    """What ``wanted`` names; raises BranchError, saying what there is, when that is nothing or more than one thing."""
    if wanted == BASE:
        return _base(project, state)
    listed = runs(state)
    test = "::" in wanted or wanted.endswith(".py")
    root = project.settings.root
    matches = _of_test(listed, wanted, root=root) if test else _named(listed, wanted)
    if len(matches) == 1:
        return Left(matches[0], _settings_of(state, matches[0], project))
    if matches:
        raise BranchError(f"{wanted!r} fits more than one branch: {_names(matches)}. Give one of these.")
    layers = [layer for layer in stored(state.layers) if layer.key.startswith(wanted)]
    if layers and len(wanted) >= SHORTEST_KEY:
        return _layer(matching(layers, wanted), project)
    raise BranchError(_nothing_here(wanted, listed, root=root) if test else _nothing(wanted, listed))


def _base(project: Project, state: State) -> Layer:
    key = keys(project.settings)[-1]
    found = [layer for layer in stored(state.layers) if layer.key == key]
    if not found:
        raise BranchError(
            "this project's base is not in the cache: run pytest once. (Steps that a conftest.py supplies by a hook "
            "are not known here: `lakebranch layers ls`, then `lakebranch open KEY`.)"
        )
    return _layer(found[0], project)


def _layer(found: StoredLayer, project: Project) -> Layer:
    return Layer(found.key, found.directory / found.generation, project.settings)


def _of_test(listed: Sequence[RunFacts], test: str, *, root: str) -> list[BranchFacts]:
    """This project's; those of runs that have not ended, else the one that was kept last."""
    here = [branch for run in listed if run.root == root for branch in run.branches if _holder(branch) == test]
    leased = [branch for branch in here if branch.lease]
    return leased or sorted(here, key=lambda branch: branch.kept.at if branch.kept else 0)[-1:]


def _holder(branch: BranchFacts) -> str | None:
    holder = branch.kept or branch.lease
    return None if holder is None else holder.test


def _named(listed: Sequence[RunFacts], wanted: str) -> list[BranchFacts]:
    """By ``RUN/BRANCH``, where the beginning of the run's name will do, or by the branch's name alone."""
    of, _, name = wanted.rpartition("/")
    chosen = [run for run in listed if run.name.startswith(of)]
    return [branch for run in chosen for branch in run.branches if branch.file.name == name]


def _settings_of(state: State, branch: BranchFacts, project: Project) -> Settings:
    """Those that the branch's run had; the present directory's where its record is damaged or of another version."""
    try:
        if branch.kept is not None:
            return Settings.from_json(branch.kept.settings)
        order = json.loads(Path(state.runs, branch.run, "run.json").read_text())
        return Settings.from_json(order["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return project.settings


def _names(branches: Sequence[BranchFacts]) -> str:
    return ", ".join(f"{branch.run[:12]}/{branch.file.name}" for branch in branches)


def _nothing(wanted: str, listed: Sequence[RunFacts]) -> str:
    return (
        f"there is no branch {wanted!r}. {_there(listed)}; `lakebranch ls` and `lakebranch layers ls` list what can be "
        "opened."
    )


def _nothing_here(test: str, listed: Sequence[RunFacts], *, root: str) -> str:
    """Another project's test of the same name is no less another test."""
    others = [(run, branch) for run in listed for branch in run.branches if _holder(branch) == test]
    elsewhere = "".join(f" {_names([branch])} is that of a test of this name in {run.root}." for run, branch in others)
    return (
        f"no branch of {test} is left in {root}: a test's branch goes when the test ends, unless it is kept "
        f"(--lakebranch-keep=failed).{elsewhere} {_there(listed)}; `lakebranch ls` lists "
        "them, and `lakebranch open base` opens what this project's tests begin with."
    )


def _there(listed: Sequence[RunFacts]) -> str:
    branches = [branch for run in listed for branch in run.branches]
    more = f" and {len(branches) - 8} more" if len(branches) > 8 else ""
    verb = "is" if len(branches) == 1 else "are"
    return f"There {verb} {_names(branches[:8])}{more}" if branches else "There are no branches"
