"""The project that branches are made in: found, asked who we are, and what it allows."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_lakebranch import amounts
from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import BranchError, ConfigError
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.providers._budget import Budget
from pytest_lakebranch.providers._rate import Rate
from pytest_lakebranch.providers._rest import Client, fetch
from pytest_lakebranch.providers.lakebase import auth
from pytest_lakebranch.providers.lakebase.api import Api, View, identity
from pytest_lakebranch.providers.lakebase.names import Guard, Name, owner_of
from pytest_lakebranch.providers.lakebase.sweep import Limit, Sweep
from pytest_lakebranch.waiting import Clock, Deadline

SOURCE = re.compile(r"(projects/[^/\s]+)(?:/branches/([^/\s]+))?")
DATABASE = "databricks_postgres"
CALL_SECONDS = 120.0
WEEK = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Project:
    """A project, and ourselves in it. ``source`` is the branch that all others come from."""

    settings: Settings
    api: Api
    budget: Budget
    run: str
    identity: str
    owner: str
    source: str
    source_uid: str
    facts: ProviderFacts
    ttl: float
    retention: float

    @property
    def user(self) -> str:
        """The role that tests connect as."""
        return self.settings.user if "user" in self.settings.sources else self.identity

    @property
    def database(self) -> str:
        """The database that tests connect to."""
        return self.settings.database if "database" in self.settings.sources else DATABASE

    @property
    def authorities(self) -> str:
        """The file of certificates to trust; empty for the system's."""
        name = self.settings.endpoint_ca
        return str(Path(self.settings.root) / Path(name).expanduser()) if name else ""

    @property
    def stands_for(self) -> Mapping[str, str]:
        """What the application's URL calls the role and the database where they were not given."""
        return {f"user {self.settings.user}": self.user, f"database {self.settings.database}": self.database}

    def branches(self) -> dict[str, View]:
        """All branches by their paths."""
        return {str(view["name"]): view for view in self.api.branches()}

    def sweep(
        self,
        views: Mapping[str, View],
        is_due: Callable[[Name, View], bool],
        limit: Limit | None = None,
        *,
        dry_run: bool = False,
    ) -> list[str]:
        """Delete those branches that are due, children first; their paths. Never any that the guard refuses, nor one
        that a branch which stays was forked from.

        All are tried within the limit; raises BranchError with what could not be deleted, or is there all the same.
        """
        sweep = Sweep(self.api, views, limit or Limit())
        paths = sweep.without_ancestors({path for path, view in views.items() if self._may_go(view, is_due)})
        if paths and not dry_run:
            sweep.delete(paths)
            sweep.check(paths)
        return paths

    def _may_go(self, view: View, is_due: Callable[[Name, View], bool]) -> bool:
        try:
            name = self.api.guard.check(str(view["name"]), view.get("status") or {}, now=self.api.now())
        except BranchError:
            return False
        return is_due(name, view)

    def close(self) -> None:
        """Hang up."""
        self.api.client.close()


def check(settings: Settings, environ: Mapping[str, str] | None = None) -> ProviderFacts:
    """What can be known without asking the project; raises ConfigError. What databricks-sdk needs, it looks for."""
    project, branch = _source(settings)
    login = auth.find(os.environ if environ is None else environ)
    host = login.host if login.method != auth.SDK else auth.authorization(login, fetch, Clock())[0]
    return _facts(host, f"{project}/branches/{branch or 'default'}", "")


def _facts(host: str, source: str, version: str) -> ProviderFacts:
    return ProviderFacts("lakebase", version or "?", host, "cloud", f"forked from {source}")


def _source(settings: Settings) -> tuple[str, str]:
    found = SOURCE.fullmatch(settings.source)
    if found is None:
        given = f"not {settings.source!r}" if settings.source else "and is not set"
        raise ConfigError(f"lakebranch_source is of the form projects/NAME or projects/NAME/branches/NAME, {given}.")
    return found[1], found[2] or ""


def open_project(
    settings: Settings,
    run: str,
    environ: Mapping[str, str] | None = None,
    *,
    wall: Callable[[], float] = time.time,
) -> Project:
    """The project of ``lakebranch_source``, as whoever the environment says we are; ``run`` names the run.

    Raises ConfigError and CloudError.
    """
    project, branch = _source(settings)
    clock = Clock(now=time.monotonic)
    host, header = auth.authorization(auth.find(os.environ if environ is None else environ), fetch, Clock(now=wall))
    client = Client(host, header, Rate(settings.requests or None, clock), clock)
    try:
        return _opened(settings, client, project, branch, run)
    except BaseException:
        client.close()
        raise


def _opened(settings: Settings, client: Client, project: str, branch: str, run: str) -> Project:
    deadline = Deadline(CALL_SECONDS, client.clock)  # for all: whoever starts the host waits for it
    me = identity(client, deadline)
    owner = owner_of(me, settings.owner)
    api = Api(client, project, CALL_SECONDS, Guard(project, owner))
    status = api.get_project(deadline)
    source = f"{project}/branches/{branch}" if branch else _default(api, status, deadline)
    view = api.branch(source, deadline)
    return Project(
        settings=settings,
        api=api,
        budget=Budget(settings.branches, client.clock),
        run=hashlib.sha256(run.encode()).hexdigest()[:8],
        identity=me,
        owner=owner,
        source=source,
        source_uid=str(view.get("uid") or source),
        facts=_facts(client.host, source, str(status.get("pg_version", ""))),
        ttl=float(amounts.span(settings.ttl)),
        retention=_seconds(status.get("history_retention_duration")),
    )


def _default(api: Api, status: Mapping[str, Any], deadline: Deadline) -> str:
    """The project's default branch: by the project, else by the branches."""
    named = status.get("default_branch")
    if named:
        return str(named)
    for view in api.branches(deadline):
        if (view.get("status") or {}).get("default"):
            return str(view["name"])
    raise ConfigError(f"{api.project} names no default branch: set lakebranch_source to {api.project}/branches/NAME.")


def _seconds(duration: object) -> float:
    found = re.fullmatch(r"(\d+)(?:\.\d+)?s", str(duration))
    return float(found[1]) if found else WEEK
