"""Branches that steps work on: the role and the database that tests use, made where the source has none; and what has
become of them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.lakebase.names import KEPT, TEMPLATE, is_kept_template, is_same, parse
from pytest_lakebranch.providers.lakebase.project import Project
from pytest_lakebranch.waiting import Deadline, poll

if TYPE_CHECKING:
    import psycopg

    from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute

LOG = logging.getLogger("pytest_lakebranch.lakebase")
SUPERUSERS = "databricks_superuser"
MEMBER = "select pg_has_role(%s, 'member') and not rolsuper from pg_roles where rolname = current_user"
UNLOGGED = "select count(*) from pg_class where relkind = 'S' and relpersistence = 'u'"
QUIET_SECONDS = 2.0
STILL_LONG = 7200.0
"""Seconds that a kept template must still live to be used: longer than a run takes."""
KEY_CHARACTERS = 9
"""Of a base's key, in its templates' names: the rest tells a run's attempts to build it apart."""


class Templates:
    """The sealed templates: those of this run, and where they are kept those of former ones."""

    def __init__(self, project: Project, wall: Callable[[], float]) -> None:
        self._project = project
        self._wall = wall
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._sealed: dict[str, str] = {}
        self._kept: dict[str, str] | None = None

    @property
    def paths(self) -> set[str]:
        """Those of this run."""
        with self._lock:
            return set(self._sealed.values())

    def tags(self, key: str) -> Iterator[str]:
        """Words for the names of this key's templates, none of them twice: a dead worker's is being deleted."""
        while True:
            yield f"{self._prefix(key)}{next(self._numbers) % 0x1000:03x}"

    def find(self, key: str) -> str | None:
        """The path of the sealed one, the latest if there are several. Raises CloudError."""
        with self._lock:
            if key in self._sealed:
                return self._sealed[key]
            if not self._project.settings.keep_template:
                return None
            if self._kept is None:  # asked once, and only if any are wanted
                self._kept = self._listed()
            return self._kept.get(self._prefix(key))

    def _prefix(self, key: str) -> str:
        return f"{KEPT if self._project.settings.keep_template else TEMPLATE}{key[:KEY_CHARACTERS]}"

    def _listed(self) -> dict[str, str]:
        found = []
        for view in self._project.api.branches():
            path, status = str(view.get("name", "")), view.get("status") or {}
            name = parse(path.rpartition("/")[2])
            if name is None or not is_same(name.owner, self._project.owner) or not is_kept_template(name, status):
                continue
            if name.dies - self._wall() > STILL_LONG:
                found.append((name.dies, str(view.get("create_time", "")), name.tag[:-3], path))
        return {prefix: path for _, _, prefix, path in sorted(found)}

    def look_again(self) -> None:
        """Another run may have made one meanwhile."""
        with self._lock:
            self._kept = None

    def add(self, key: str, path: str) -> None:
        """One more is sealed."""
        with self._lock:
            self._sealed[key] = path


def prepare(compute: LakebaseCompute) -> None:
    """Make the role and the database if there are none; the role may do while steps run what ours may.

    Raises BaseError.
    """
    import psycopg

    try:
        with connect(compute.maintenance, autocommit=True) as connection:
            if compute.user != compute.door.identity:
                _make_role(connection, compute.user)
            _make_database(connection, compute.dbname, compute.user)
    except psycopg.Error as error:
        raise BaseError(
            f"role {compute.user!r} and database {compute.dbname!r} cannot be made on the template branch: {error}"
        ) from error


def _make_role(connection: psycopg.Connection[Any], role: str) -> None:
    from psycopg import errors, sql

    name = sql.Identifier(role)
    if connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone() is None:
        connection.execute(sql.SQL("create role {} login").format(name))
    with contextlib.suppress(errors.InsufficientPrivilege):  # a role of the source: a login says what is missing
        connection.execute(sql.SQL("grant {} to current_user").format(name))
    _grant_superusers(connection, role, "grant {} to {}")


def _grant_superusers(connection: psycopg.Connection[Any], role: str, statement: str) -> None:
    """Where we may not pass that on, steps have the role's own rights, and say themselves what they lack."""
    from psycopg import errors, sql

    try:
        connection.execute(
            sql.SQL(statement).format(sql.Identifier(SUPERUSERS), sql.Identifier(role))  # type: ignore[arg-type, unused-ignore]
        )
    except (errors.InsufficientPrivilege, errors.UndefinedObject) as error:
        LOG.info("%s: %s", SUPERUSERS, error)


def _make_database(connection: psycopg.Connection[Any], database: str, owner: str) -> None:
    from psycopg import sql

    if connection.execute("select 1 from pg_database where datname = %s", [database]).fetchone() is None:
        statement = sql.SQL("create database {} owner {}")
        connection.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))


def finish(compute: LakebaseCompute) -> None:
    """The role has its own rights again. Raises BaseError."""
    import psycopg

    if compute.user == compute.door.identity:
        return
    try:
        with connect(compute.maintenance, autocommit=True) as connection:
            _grant_superusers(connection, compute.user, "revoke {} from {}")
    except psycopg.Error as error:
        raise BaseError(f"the template branch cannot be finished: {error}") from error


def check_quiet(compute: LakebaseCompute) -> None:
    """Raise BaseError when a step left connections or prepared transactions."""
    import psycopg

    if poll(lambda: None if compute.has_clients else True, deadline=Deadline(QUIET_SECONDS)) is None:
        raise BaseError("a step left a connection open to the template branch: close it at the step's end.")
    try:
        if not compute.others_leave(QUIET_SECONDS):
            raise BaseError("a step left a statement running on the template branch: wait for it at the step's end.")
        with connect(compute.maintenance, autocommit=True) as connection:
            row = connection.execute("select count(*), min(gid) from pg_prepared_xacts").fetchone()
    except psycopg.Error as error:
        raise BaseError(f"the template branch takes no connection after the step: {error}") from error
    if row and row[0]:
        raise BaseError(f"a step left a prepared transaction ({row[1]!r}): commit it or roll it back.")


def has_unlogged_sequences(compute: LakebaseCompute) -> bool:
    """Whether the tests' database has sequences that can be used without a trace. Raises psycopg.Error."""
    with connect(compute.endpoint, autocommit=True) as connection:
        row = connection.execute(UNLOGGED).fetchone()
    return bool(row and row[0])
