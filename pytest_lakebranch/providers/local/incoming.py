"""The files of another server, taken over as a base: recovered, and stripped of all that is not the wanted database.

They never meet a server that could act by itself: subscriptions are gone before one of more than a single process runs
on them, and what the original's configuration would start is not started (see server_settings).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import BaseError, LakebranchError
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.local import cluster, control_file
from pytest_lakebranch.providers.local.disk import FULL_IN_LOG, disk_full
from pytest_lakebranch.providers.local.server import MAINTENANCE, SUPERUSER, Server, session
from pytest_lakebranch.providers.local.serving import Servers, stopped_on_failure
from pytest_lakebranch.providers.local.storage.base import Storage

TEMPLATE = "template0"
"""The one database that nobody has connected to, and that a single-user server can."""
CONFIGURATION = frozenset({"postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"})
OF_BACKUPS = frozenset({"backup_label"})
REPLAYING = {
    "max_prepared_transactions": "1000",
    "max_replication_slots": "1000",
    "min_wal_size": "2GB",  # two segments of the largest size there is
    "max_wal_size": "4GB",
}
"""Room for what the original's log may hold: recovery refuses more than there is room for."""
REPLAYING_SINCE_18 = {"max_active_replication_origins": "1000"}
FAILED = re.compile(r"^.*\b(?:ERROR|FATAL|PANIC): .*$", re.MULTILINE)
OF_USERS = 16384
"""FirstNormalObjectId (transam.h)."""

DISARM = f"""
DELETE FROM pg_subscription
DELETE FROM pg_shdepend WHERE classid = 'pg_subscription'::regclass
DELETE FROM pg_db_role_setting
DELETE FROM pg_auth_members WHERE greatest(roleid, member, grantor) >= {OF_USERS}
DELETE FROM pg_shdepend WHERE classid = 'pg_auth_members'::regclass
DELETE FROM pg_shdepend WHERE classid = 'pg_database'::regclass AND deptype = 'a'
UPDATE pg_database SET datacl = NULL, datistemplate = false, datallowconn = true WHERE datname <> '{TEMPLATE}'
UPDATE pg_database SET datconnlimit = -1 WHERE datconnlimit >= 0
DO $$ BEGIN IF to_regrole('{SUPERUSER}') IS NULL THEN CREATE ROLE {SUPERUSER}; END IF; END $$
ALTER ROLE {SUPERUSER} LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS CONNECTION LIMIT -1 PASSWORD NULL
ALTER ROLE {SUPERUSER} VALID UNTIL 'infinity'
"""  # noqa: S608  (constants)
"""For a single-user server, a statement a line.

By hand where SQL's own way is none: DROP SUBSCRIPTION may connect to the publisher, and drop a slot of its there.
"""
ROLES = """
SELECT rolname, oid = 10, EXISTS (SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = r.oid)
FROM pg_roles r WHERE (oid >= %s OR oid = 10) AND rolname <> ALL (%s)"""
"""Roles of the original; whether it was made with this one, which stays what it is; whether anything depends on it."""
PLAIN = (
    "NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT CONNECTION LIMIT -1 VALID UNTIL 'infinity' "
    "PASSWORD NULL"
)
WITH_SECRETS = ("pg_authid", "pg_subscription")
"""Rewritten, because a row that was changed or removed leaves its bytes in its page."""


@dataclass(frozen=True, slots=True)
class LocalIncoming:
    """See Incoming."""

    directory: Path
    taker: Callable[[str], Compute]

    def take_over(self, database: str) -> Compute:
        """See Incoming."""
        return self.taker(database)


def take_over(server: Server, incoming: Path, database: str, *, servers: Servers, storage: Storage) -> Server:
    """A server on the backup in ``incoming``, which becomes the data directory, in the place of ``server``.

    Raises LakebranchError and OSError; then no server runs.
    """
    place, settings = server.place, servers.settings
    server.stop_at_once()
    remove_tree(server.sockets)
    recovery = Recovery(incoming, place.data, servers, log=place.directory / "recovery.log")
    recovery.run(database, known_as=settings.database)
    storage.remove(place.data)
    incoming.rename(place.data)
    fresh = servers.serve(server.name, place, building=True)
    with stopped_on_failure(fresh):
        settle(fresh, user=settings.user, database=settings.database)
        cluster.add_what_rewinding_needs(fresh, servers.binaries.major)
        cluster.set_superuser(fresh, settings.user, superuser=True)
    return fresh


@dataclass(frozen=True, slots=True)
class Recovery:
    """Brings an online backup in ``data`` to rest, as one of our clusters; ``like`` is one as initdb makes them.

    ``log`` is for what programs say.
    """

    data: Path
    like: Path
    servers: Servers
    log: Path

    def run(self, database: str, *, known_as: str) -> None:
        """Leave ``database`` under the name ``known_as`` and nothing that could act; raises BaseError, OSError."""
        self._clear()
        self._recover([*DISARM.strip().splitlines(), *_renaming(database, known_as)])
        if any((self.data / "pg_twophase").iterdir()):
            raise self._failure("recover it", "it has prepared transactions")
        (self.data / "backup_label.old").unlink(missing_ok=True)
        self._run("pg_resetwal", f"--wal-segsize={control_file.SEGMENT >> 20}", str(self.data))
        self._run("pg_checksums", "--disable", "--no-sync", str(self.data), but="already disabled")

    def _clear(self) -> None:
        """Leave what initdb makes, with our configuration: there may be logs, keys and signals to follow another."""
        ours = {path.name for path in self.like.iterdir()}
        for path in list(self.data.iterdir()):
            if path.name not in ours - CONFIGURATION | OF_BACKUPS:
                remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in CONFIGURATION:
            shutil.copyfile(self.like / name, self.data / name)
        (self.data / "pg_logical" / "replorigin_checkpoint").unlink(missing_ok=True)

    def _recover(self, statements: Iterable[str]) -> None:
        room = {**REPLAYING, **(REPLAYING_SINCE_18 if self.servers.binaries.major >= 18 else {})}
        flags = [word for name, value in room.items() for word in ("-c", f"{name}={value}")]
        command = [*self.servers.single(self.data), *flags, TEMPLATE]
        self.servers.launcher.run(command, log=self.log, told="\n".join(statements) + "\n")
        said = self.log.read_text(errors="replace")
        failures = FAILED.findall(said)
        if failures or control_file.read(self.data).state != control_file.SHUT_DOWN:
            raise self._failure("recover it", "\n".join(failures) or said[-2000:])

    def _run(self, program: str, *arguments: str, but: str = "nothing") -> None:
        self.log.write_text("")
        command = [self.servers.binaries.program(program), *arguments]
        if self.servers.launcher.run(command, log=self.log) != 0:
            said = self.log.read_text(errors="replace")
            if but not in said:
                raise self._failure(program, said[-2000:])

    def _failure(self, doing: str, said: str) -> LakebranchError:
        if FULL_IN_LOG in said:
            return disk_full(self.data, "taking over a copy")
        return BaseError(f"the copy cannot be taken over ({doing}): {said.strip()}")


def _renaming(database: str, known_as: str) -> Iterator[str]:
    """Statements that make the wanted database the tests', and a maintenance database of our own."""
    if database != known_as:
        yield f"DROP DATABASE IF EXISTS {_quoted(known_as)}"
        yield f"ALTER DATABASE {_quoted(database)} RENAME TO {_quoted(known_as)}"
    if database != MAINTENANCE:
        yield f"DROP DATABASE IF EXISTS {MAINTENANCE}"
    yield f"CREATE DATABASE {MAINTENANCE} TEMPLATE {TEMPLATE}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def settle(server: Server, *, user: str, database: str) -> None:
    """Remove the other databases, and make ``user`` and the other roles what they are in any base; raises BaseError.

    As after a dump, roles stay that own something or may do something, without login and rights of their own.
    """
    import psycopg

    try:
        _remove_databases(server, but=database)
        server.query("SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin")
        with session(server, database) as ours:
            ours.execute("DELETE FROM pg_subscription_rel")
        _settle_roles(server, user, database)
        for table in WITH_SECRETS:
            server.control.execute(f"VACUUM FULL {table}")
    except psycopg.Error as error:
        raise BaseError(f"the copy cannot be taken over: {error}") from error


def _remove_databases(server: Server, *, but: str) -> None:
    from psycopg import sql

    kept = [but, MAINTENANCE, TEMPLATE]
    for (name,) in server.query("SELECT datname::text FROM pg_database WHERE datname <> ALL (%s)", kept):
        server.control.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    server.control.execute(f"CREATE DATABASE template1 TEMPLATE {TEMPLATE} IS_TEMPLATE true")


def _settle_roles(server: Server, user: str, database: str) -> None:
    from psycopg import sql

    owner = sql.Identifier(user)
    if user != SUPERUSER:
        if not server.query("SELECT FROM pg_roles WHERE rolname = %s", user):
            server.control.execute(sql.SQL("CREATE ROLE {}").format(owner))
        server.control.execute(sql.SQL("ALTER ROLE {} LOGIN {} CREATEDB").format(owner, sql.SQL(PLAIN)))
    server.control.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), owner))
    for name, first, needed in server.query(ROLES, OF_USERS, [SUPERUSER, user]):
        role = sql.Identifier(name)
        if first:
            server.control.execute(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(role))
        elif needed:
            server.control.execute(sql.SQL("ALTER ROLE {} NOLOGIN NOCREATEDB {}").format(role, sql.SQL(PLAIN)))
        else:
            server.control.execute(sql.SQL("DROP ROLE {}").format(role))
