"""Which provider the settings ask for."""

from __future__ import annotations

import os

from pytest_lakebranch.branches.reaper import left_in_cloud
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.providers.base import Provider
from pytest_lakebranch.providers.local.facts import facts_of
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.state import State


def facts(settings: Settings, state: State) -> ProviderFacts:
    """What the provider would say of itself; raises what can be known to be wrong before anything is started."""
    if settings.provider == "local":
        return facts_of(settings, state)
    from pytest_lakebranch.providers.lakebase.project import check

    return check(settings)


def open_provider(settings: Settings, state: State, directory: RunDirectory) -> Provider:
    """The provider of a run. Raises LakebranchError."""
    if settings.provider == "local":
        return LocalProvider(settings, state=state, run_directory=directory.path, sockets=directory.sockets)
    from pytest_lakebranch.providers.lakebase.project import open_project
    from pytest_lakebranch.providers.lakebase.provider import LakebaseProvider

    project = open_project(settings, directory.path.name)
    provider = LakebaseProvider(
        project, locks=state.home / "locks", sockets=directory.sockets, run_directory=directory.path
    )
    if left_in_cloud(state):
        provider.reap(state)
    return provider


def programs(settings: Settings) -> str:
    """The directory of PostgreSQL's programs; empty where branches need none and there are none."""
    try:
        return str(find(settings.postgres).directory)
    except MachineError:
        if settings.provider == "local":
            raise
        return ""


def reap_cloud(settings: Settings, state: State, *, dry_run: bool = False, owned: bool = False) -> list[str]:
    """Delete the branches that dead runs of this machine left in the project of the settings; their paths.

    Those of runs on other machines go when they expire, or after their death date; with ``owned`` now, if they are of
    the owner of the settings. Raises LakebranchError.
    """
    from pytest_lakebranch.providers.lakebase.project import open_project
    from pytest_lakebranch.providers.lakebase.reaper import reap

    project = open_project(settings, f"reaper {os.getpid()}")
    try:
        return reap(project, state, dry_run=dry_run, owned=owned)
    finally:
        project.close()
