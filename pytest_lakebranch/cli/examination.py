"""What ``lakebranch doctor`` finds out."""

from __future__ import annotations

import platform
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pytest_lakebranch import __version__
from pytest_lakebranch.cli import workplace
from pytest_lakebranch.cli.advice import Advice, advice
from pytest_lakebranch.cli.project import Project
from pytest_lakebranch.cli.trouble import message
from pytest_lakebranch.config import RUNGS, Rung
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local import launch, storage
from pytest_lakebranch.providers.local.disk import filesystem
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.providers.local.storage.base import Sealed, Storage
from pytest_lakebranch.providers.local.storage.tree import scan
from pytest_lakebranch.state import State, sockets_root

T = TypeVar("T")
BRANCHES = 5


@dataclass(frozen=True, slots=True)
class Tried:
    """One rung of the storage ladder: whether it is the one that branches use, works, and what there is to say."""

    rung: Rung
    chosen: bool
    works: bool
    says: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What an empty base and its branches cost."""

    build_seconds: float
    clone_ms: float
    start_ms: float
    stop_ms: float
    branches: int


@dataclass(slots=True)
class Findings:
    """Everything that was found; what is None could not be found out, and ``problems`` says why."""

    lakebranch: str = __version__
    python: str = field(default_factory=platform.python_version)
    system: str = field(default_factory=lambda: f"{platform.system()} {platform.release()}")
    postgres: dict[str, str] | None = None
    user_namespaces: bool | None = None
    state: dict[str, Any] | None = None
    sockets: str | None = None
    rungs: list[Tried] = field(default_factory=list)
    measured: Measured | None = None
    advice: list[Advice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def tried(self, look: Callable[..., T], *arguments: Any) -> T | None:
        """What ``look`` returns; an error that is no defect is a problem to report, and None."""
        try:
            return look(*arguments)
        except Exception as error:
            said = message(error)
            if said is None:
                raise
            if said not in self.problems:
                self.problems.append(said)
            return None


def examine(project: Project) -> Findings:
    """Look at everything that a run with these settings needs; a branch is started as a run would, and removed."""
    found = Findings()
    found.postgres = found.tried(_postgres, project)
    machine = found.tried(launch.inspect)
    found.user_namespaces = None if machine is None else machine.namespaces
    state = found.tried(project.state.ensure)
    found.state = None if state is None else found.tried(_state, project, state)
    sockets = found.tried(sockets_root)
    found.sockets = None if sockets is None else str(sockets)
    if machine is not None and state is not None:
        found.tried(_storage, found, project, state, machine)
    return found


def _postgres(project: Project) -> dict[str, str]:
    programs = find(project.settings.postgres)
    return {"version": programs.version, "origin": programs.origin, "directory": str(programs.directory)}


def _state(project: Project, state: State) -> dict[str, Any]:
    return {
        "directory": str(state.home),
        "source": project.settings.sources.get("home", "default"),
        "file_system": filesystem(state.home),
        "free_bytes": shutil.disk_usage(state.home).free,
    }


def _storage(found: Findings, project: Project, state: State, machine: launch.Machine) -> None:
    refusals = {rung: storage.refusal(rung, directory=state.home, machine=machine) for rung in RUNGS}
    chosen = storage.choose(project.settings.storage, directory=state.home, machine=machine)
    rung = chosen.storage.rung
    for name, said in refusals.items():
        says = chosen.reason if name == rung else "would work" if said is None else said
        found.rungs.append(Tried(name, name == rung, said is None, says))
    found.advice = advice(rung, namespaces=machine.namespaces, home=state.home)
    found.measured = _measure(project, state, chosen.storage)


def _measure(project: Project, state: State, used: Storage) -> Measured:
    with workplace.provider(project.settings, state, own_layers=True) as provider:
        began = time.perf_counter()
        at = provider.seal(provider.build("base", None), provider.root_key)
        built = time.perf_counter() - began
        clones = [_clone(used, at) for _ in range(BRANCHES)]
        times = [_branch(provider, at, number) for number in range(BRANCHES)]
    clone, start, stop = (round(statistics.median(part) * 1e3, 1) for part in (clones, *zip(*times, strict=True)))
    return Measured(round(built, 3), clone, start, stop, BRANCHES)


def _clone(used: Storage, at: ForkPoint) -> float:
    """Seconds until there is a copy-on-write copy of the files; a copy's server is another matter."""
    data = Path(at.location)
    sealed, directory = Sealed(at.key, data, scan(data)), data.parents[2] / "clone"
    began = time.perf_counter()
    used.branch(sealed, directory)
    took = time.perf_counter() - began
    used.remove(directory)
    return took


def _branch(provider: LocalProvider, at: ForkPoint, number: int) -> tuple[float, float]:
    """Seconds until a new branch has answered a connection, and until it is gone."""
    began = time.perf_counter()
    compute = provider.start(f"b{number}", at)
    connect(compute.endpoint).close()
    ready = time.perf_counter()
    compute.discard(disposable=True)
    return ready - began, time.perf_counter() - ready
