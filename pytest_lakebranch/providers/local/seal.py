"""Sealing: what a base must not leave behind, and how it is brought to rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import BaseError, LakebranchError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local import catalog_cache, control_file
from pytest_lakebranch.providers.local.disk import FULL_IN_LOG, disk_full
from pytest_lakebranch.providers.local.server import Server, session
from pytest_lakebranch.providers.local.storage.tree import MADE_BY_SERVERS
from pytest_lakebranch.waiting import Deadline, poll

if TYPE_CHECKING:
    import psycopg

GRACE_SECONDS = 1.0
"""How long connections that a step has just closed may take to go away."""

CLIENTS = """
select format('%s (database %s, application %s): %s', pid, datname, nullif(application_name, ''), left(query, 120))
from pg_stat_activity where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid()"""

TABLES = """
select format('%s.%I', relnamespace::regnamespace, relname), pg_relation_filepath(oid) from pg_class
where relkind in ('r', 'm') and relpersistence <> 't'"""
MANY = 200

FINDINGS: tuple[tuple[str, str, str], ...] = (
    (
        CLIENTS,
        "left connections open",
        "Close them before the step returns (pools and engines: dispose of them).",
    ),
    (
        "select format('%L in database %s', gid, database) from pg_prepared_xacts",
        "left prepared transactions",
        "Commit or roll them back in the step (COMMIT PREPARED, ROLLBACK PREPARED).",
    ),
    (
        "select slot_name::text from pg_replication_slots",
        "left replication slots",
        "Drop them in the step (pg_drop_replication_slot).",
    ),
    (
        "select spcname::text from pg_tablespace where spcname not in ('pg_default', 'pg_global')",
        "made tablespaces, which all branches would share",
        "Leave tables in the default tablespace (pg_restore: --no-tablespaces).",
    ),
    (
        "select datname::text from pg_database where not datallowconn and datname <> 'template0'",
        "left databases that allow no connection, which cannot be sealed",
        "Drop them, or ALTER DATABASE … ALLOW_CONNECTIONS true.",
    ),
)


def check_quiet(server: Server) -> None:
    """Raise BaseError naming everything a step left that cannot be sealed, and what to do about it."""
    poll(lambda: None if server.query(CLIENTS) else True, deadline=Deadline(GRACE_SECONDS))
    found = [
        (what, [row[0] for row in rows], remedy) for query, what, remedy in FINDINGS if (rows := server.query(query))
    ]
    if found:
        raise BaseError(
            "the base cannot be sealed: its steps "
            + "; ".join(f"{what}: {', '.join(rows)}. {remedy}" for what, rows, remedy in found)
        )


def bring_to_rest(server: Server, *, since: int | None = None) -> None:
    """Leave nothing that a later SELECT would write, put everything in the data files, and stop.

    ``since``: what was not written after this time, in nanoseconds, was at rest already.
    """
    with_words(server, lambda: _vacuum_all(server, since))
    server.stop_cleanly()
    if control_file.read(server.place.data).state != control_file.SHUT_DOWN:
        raise BaseError(f"{server.name} was not shut down cleanly:\n{server.log_tail()}")
    catalog_cache.keep(server.place.data)
    strip(server.place.data)


def _vacuum_all(server: Server, since: int | None) -> None:
    names = [row[0] for row in server.query("select datname from pg_database where datallowconn")]
    for name in names:
        with session(server, name) as connection:
            if since is None:
                connection.execute("vacuum (freeze, analyze)")
                connection.execute("vacuum (freeze)")  # removes what ANALYZE left in pg_statistic
            else:
                _vacuum_changed(connection, server, since)
    server.control.execute("checkpoint")
    for name in names:
        session(server, name).close()  # makes the cache of the catalog as it is now


def _vacuum_changed(connection: psycopg.Connection[Any], server: Server, since: int) -> None:
    """The same for those tables whose files were written: a server may lose its statistics, a file keeps its time.

    For all where there are partitions, whose parents have no file, or so many that it makes no difference.
    """
    partitioned = connection.execute("select from pg_partitioned_table limit 1").fetchone()
    for options in ("freeze, analyze", "freeze"):
        connection.execute("checkpoint")
        changed = _written(connection, server, since)
        what = "" if partitioned or len(changed) > MANY else ", ".join(changed)
        if changed:
            connection.execute(f"vacuum ({options}) {what}")


def _written(connection: psycopg.Connection[Any], server: Server, since: int) -> list[str]:
    """The tables, also of the catalog, that were written after this time, quoted; of a server that has flushed all."""
    found = connection.execute(TABLES).fetchall()
    return [name for name, path in found if _last_written(server.place.data / path) > since]


def _last_written(file: Path) -> int:
    """When the last of a relation's segments was written, in nanoseconds."""
    last = file.stat().st_mtime_ns
    number = 1
    while (segment := Path(f"{file}.{number}")).exists():
        last, number = max(last, segment.stat().st_mtime_ns), number + 1
    return last


def check_reachable(endpoint: Endpoint) -> None:
    """Raise BaseError when tests could not connect: here once, rather than in each test."""
    import psycopg

    try:
        connect(endpoint).close()
    except psycopg.OperationalError as error:
        raise BaseError(
            f"the base cannot be used: role {endpoint.user!r} cannot connect to database {endpoint.dbname!r}: {error}. "
            "A step must not drop, rename or lock what lakebranch_user and lakebranch_database name."
        ) from error


def with_words(server: Server, action: Callable[[], Any]) -> None:
    """Run ``action``; an error of the server becomes BaseError, or MachineError when the disk is full."""
    import psycopg

    try:
        action()
    except psycopg.Error as error:
        raise _sealing_error(server, error) from error


def _sealing_error(server: Server, error: Exception) -> LakebranchError:
    import psycopg

    if isinstance(error, psycopg.errors.DiskFull) or FULL_IN_LOG in f"{error}{server.log_tail()}":
        return disk_full(server.place.directory, "sealing the base")
    return BaseError(f"the base could not be sealed: {error}")


def strip(data: Path) -> None:
    """Remove from a stopped data directory what no server needs: the less there is, the less a copy costs."""
    for path in _needless(data):
        path.unlink()
    for folder in ("pg_stat_tmp", "pg_dynshmem"):
        for path in list((data / folder).glob("*")):
            remove_tree(path) if path.is_dir() else path.unlink()


def _needless(data: Path) -> Iterator[Path]:
    for name in MADE_BY_SERVERS:
        yield from data.glob(name)
        yield from data.glob(f"global/{name}")
        yield from data.glob(f"base/*/{name}")
    last = control_file.read(data).segment
    yield from (path for path in (data / "pg_wal").iterdir() if path.is_file() and not path.name.endswith(last))
