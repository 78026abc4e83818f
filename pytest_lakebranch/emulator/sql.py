"""What the API does inside of databases: roles and databases, by SQL as the superuser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.emulator.names import made_from
from pytest_lakebranch.emulator.resources import OAUTH, PASSWORD, Branch, Database, Role
from pytest_lakebranch.providers.local.server import MAINTENANCE, SUPERUSER, Server

if TYPE_CHECKING:
    from psycopg import sql

    from pytest_lakebranch.emulator.identities import Identity

GROUP = "databricks_superuser"
DEFAULT_DATABASE = "databricks_postgres"
LOGIN_ROLES = """select rolname::text, rolcreatedb, rolcreaterole, rolbypassrls,
    pg_has_role(oid, %s, 'member') from pg_roles where rolcanlogin and rolname <> %s order by oid"""
DATABASES = """select datname::text, pg_get_userbyid(datdba)::text from pg_database
where datallowconn and not datistemplate and datname <> %s order by oid"""


def prepare_root(branch: Branch, creator: Identity, now: float) -> None:
    """Make what a project's first branch has: the superusers' group, the creator's role, the default database.

    What the base brought is listed with it. Raises LakebranchError.
    """
    server = branch.store.running().server
    known = {name for (name,) in server.query("select rolname::text from pg_roles")}
    if GROUP not in known:
        run(server, "create role {} nologin createdb createrole bypassrls", GROUP)
        run(server, "grant pg_read_all_data, pg_write_all_data, pg_monitor, pg_signal_backend to {}", GROUP)
    if creator.name not in known:
        run(server, "create role {} login", creator.name)
    run(server, "alter role {} createdb createrole bypassrls", creator.name)
    run(server, "grant {} to {}", GROUP, creator.name)
    databases: dict[str, str] = dict(server.query(DATABASES, MAINTENANCE))
    for owner in {*databases.values()} - {creator.name, SUPERUSER}:
        run(server, "grant {} to {}", owner, creator.name)
    if DEFAULT_DATABASE not in databases:
        run(server, "create database {} owner {}", DEFAULT_DATABASE, creator.name)
    branch.roles = {role.id: role for role in _roles(server, creator, now)}
    ids = {role.postgres_role: role.id for role in branch.roles.values()}
    branch.databases = {
        each.id: each
        for name, owner in server.query(DATABASES, MAINTENANCE)
        for each in [Database(made_from(name), name, ids.get(owner, ids[creator.name]), now, now)]
    }


def _roles(server: Server, creator: Identity, now: float) -> list[Role]:
    roles = []
    for name, createdb, createrole, bypassrls, superuser in server.query(LOGIN_ROLES, GROUP, SUPERUSER):
        kind, method = "IDENTITY_TYPE_UNSPECIFIED", PASSWORD
        if name == creator.name:
            kind, method = ("SERVICE_PRINCIPAL" if creator.is_service_principal else "USER"), OAUTH
        attributes = {"createdb": createdb, "createrole": createrole, "bypassrls": bypassrls}
        roles.append(Role(made_from(name), name, kind, method, now, now, superuser, attributes))
    return roles


def run(server: Server, template: str, *names: str) -> None:
    """One statement with identifiers in its braces, in the maintenance database."""
    server.control.execute(composed(template, names))


def composed(template: str, names: Sequence[str]) -> sql.Composed:
    """The statement with its identifiers quoted."""
    from psycopg import sql

    made: Any = sql.SQL(template)  # type: ignore[arg-type, unused-ignore]
    return made.format(*(sql.Identifier(name) for name in names))  # type: ignore[no-any-return]
