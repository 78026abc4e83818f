"""What the API does inside of databases: roles and databases, by SQL as the superuser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.emulator.names import made_from
from pytest_lakebranch.emulator.refusals import ApiError, bad_request
from pytest_lakebranch.emulator.resources import NO_LOGIN, OAUTH, PASSWORD, Branch, Database, Role
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.server import MAINTENANCE, SUPERUSER, Server

if TYPE_CHECKING:
    from psycopg import sql

    from pytest_lakebranch.emulator.identities import Identity

GROUP = "databricks_superuser"
DEFAULT_DATABASE = "databricks_postgres"
LOGIN_ROLES = """select rolname::text, rolcreatedb, rolcreaterole, rolbypassrls,
    pg_has_role(oid, %s, 'member') from pg_roles where rolcanlogin and rolname <> %s order by oid"""
MADE = """select rolname::text from pg_roles
where not rolsuper and rolname !~ '^pg_' and not pg_has_role(oid, %s, 'member') and rolname <> %s"""
"""Roles that the base brought: they belong to the creator, as if by ``create role``."""
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
    made = {name for (name,) in server.query(MADE, creator.name, GROUP)}
    for role in made | {*databases.values()} - {creator.name, SUPERUSER}:
        run(server, "grant {} to {} with admin option", role, creator.name)
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
    execute(server, composed(template, names))


def execute(server: Server, statement: sql.Composed) -> None:
    """One statement as the superuser, not on the control connection: psycopg would drop what is prepared there."""
    with connect(server.endpoint(MAINTENANCE), autocommit=True) as connection:
        connection.execute(statement)


def composed(template: str, names: Sequence[str]) -> sql.Composed:
    """The statement with its identifiers quoted."""
    from psycopg import sql

    made: Any = sql.SQL(template)  # type: ignore[arg-type, unused-ignore]
    return made.format(*(sql.Identifier(name) for name in names))  # type: ignore[no-any-return]


@contextmanager
def _as_refusal() -> Iterator[None]:
    """What PostgreSQL refuses, the API refuses."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise bad_request(str(error.diag.message_primary or error)) from error


def create_role(branch: Branch, role: Role) -> None:
    """Create the role in PostgreSQL; raises ApiError."""
    server = branch.store.running().server
    with _as_refusal():
        run(server, "create role {}", role.postgres_role)
    try:
        alter_role(branch, role)
        if role.password is not None:
            _set_password(server, role)
    except ApiError:
        run(server, "drop role {}", role.postgres_role)
        raise


def _set_password(server: Server, role: Role) -> None:
    from psycopg import sql

    statement = sql.SQL("alter role {} password {}")
    with _as_refusal():
        execute(server, statement.format(sql.Identifier(role.postgres_role), sql.Literal(role.password)))


def alter_role(branch: Branch, role: Role) -> None:
    """Give the role in PostgreSQL its attributes and memberships; raises ApiError."""
    server = branch.store.running().server
    words = [name if role.attributes.get(name) else f"no{name}" for name in ("bypassrls", "createdb", "createrole")]
    words.append("nologin" if role.auth_method == NO_LOGIN else "login")
    with _as_refusal():
        run(server, f"alter role {{}} {' '.join(words)}", role.postgres_role)
        granted = "grant {} to {}" if role.superuser else "revoke {} from {}"
        run(server, granted, GROUP, role.postgres_role)


def drop_role(branch: Branch, role: Role, heir: Role | None) -> None:
    """Drop the role in PostgreSQL, its property going to ``heir`` in all databases; raises ApiError."""
    server = branch.store.running().server
    with _as_refusal():
        for (name,) in server.query("select datname::text from pg_database where datallowconn"):
            with connect(server.endpoint(name), autocommit=True) as connection:
                if heir is not None:
                    statement = composed("reassign owned by {} to {}", (role.postgres_role, heir.postgres_role))
                    connection.execute(statement)
                    connection.execute(composed("drop owned by {}", (role.postgres_role,)))
        run(server, "drop role {}", role.postgres_role)


def create_database(branch: Branch, database: Database) -> None:
    """Create the database in PostgreSQL; raises ApiError."""
    owner = branch.roles[database.role].postgres_role
    with _as_refusal():
        run(branch.store.running().server, "create database {} owner {}", database.postgres_database, owner)


def alter_database(branch: Branch, database: Database, changed: Database) -> None:
    """Rename the database or give it to another role; raises ApiError."""
    server = branch.store.running().server
    with _as_refusal():
        if changed.role != database.role:
            owner = branch.roles[changed.role].postgres_role
            run(server, "alter database {} owner to {}", database.postgres_database, owner)
        if changed.postgres_database != database.postgres_database:
            run(server, "alter database {} rename to {}", database.postgres_database, changed.postgres_database)


def drop_database(branch: Branch, database: Database) -> None:
    """Drop the database, and end who is connected to it; raises ApiError."""
    with _as_refusal():
        run(branch.store.running().server, "drop database {} with (force)", database.postgres_database)


def verifier(branch: Branch, user: str) -> str | None:
    """What PostgreSQL keeps of a role's password; None when it has none. Raises LakebranchError."""
    rows = branch.store.running().server.query("select rolpassword from pg_authid where rolname = %s", user)
    return rows[0][0] if rows else None
