"""What the log says was touched: one statement, and what its answer means."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_lakebranch.providers.local.rewind.knowledge import Knowledge
from pytest_lakebranch.providers.local.rewind.manifest import Relation
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server

READ = """
with flushed as materialized (select pg_logical_emit_message(false, 'lakebranch', '', true) as lsn)
select reltablespace::int8, reldatabase::int8, relfilenode::int8,
       array_agg(distinct relblocknumber) filter (where relforknumber = 0), null, null, null
from flushed, pg_get_wal_block_info($1::pg_lsn, flushed.lsn, false) group by 1, 2, 3
union all
select null, null, null, null, array_agg("resource_manager/record_type"),
       (select count(*) from pg_get_replication_slots()), (select count(*) from pg_prepared_xact())
from flushed, pg_get_wal_stats($1::pg_lsn, flushed.lsn, true) where count > 0"""
"""Rows for relations with their touched blocks (of the main fork); one with the kinds of records, and with what no
log position tells: replication slots and prepared transactions.

The message is flushed, because only flushed log can be read; its end is where reading ends.
"""
DROPPED = """
select description from pg_get_wal_records_info(%s, pg_current_wal_flush_lsn())
where resource_manager = 'Database' and record_type = 'DROP'"""

DEFAULT_SPACES = frozenset({1663, 1664})
"""pg_default and pg_global (pg_tablespace.dat)."""
NAMES_ITS_BLOCKS = frozenset(
    {"Heap", "Heap2", "Btree", "Hash", "Gin", "Gist", "SPGist", "BRIN", "Sequence", "Generic"},
)
"""Resource managers whose records name every block of the main fork that they change (rmgrlist.h)."""
NOT_IN_DATABASES = frozenset({"Transaction", "CLOG", "MultiXact", "CommitTs", "Standby", "LogicalMessage"})
"""Resource managers whose records change nothing in base/ and global/ by themselves."""
FORGETTING = frozenset({"CLOG/TRUNCATE", "MultiXact/TRUNCATE_ID", "CommitTs/TRUNCATE"})
"""Records that take away what rows that come back may ask for: how old transactions ended (clog.c, multixact.c)."""
XLOG = frozenset(
    {
        *("CHECKPOINT_ONLINE", "CHECKPOINT_REDO", "NOOP", "NEXTOID", "SWITCH", "BACKUP_END", "RESTORE_POINT"),
        *("FPI", "FPI_FOR_HINT"),
    }
)
FILES = frozenset(
    {
        *("Storage/CREATE", "Storage/TRUNCATE", "RelMap/UPDATE"),
        *("Database/CREATE_FILE_COPY", "Database/CREATE_WAL_LOG", "Database/DROP"),
    }
)
"""Records that change files without naming blocks."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Blocks of main forks by relation; ``whole`` where blocks do not tell everything; ``files`` where directories
    and catalogs have to be put back too; ``aborted`` where a transaction was, which may have added pages in silence.
    """

    blocks: dict[Relation, list[int]]
    whole: bool
    files: bool
    aborted: bool


def read(server: Server, since: int, knowledge: Knowledge) -> Touched:
    """What was touched since a position in the log, which is flushed for it.

    Raises UnprovenError when something happened that cannot be undone, or the log cannot be read.
    """
    start = spelled(since)
    *relations, (*_, kinds, slots, prepared) = _read(server, start)
    if prepared != "0" or slots != "0":
        raise UnprovenError(f"a {'replication slot' if slots != '0' else 'prepared transaction'} was left")
    types = frozenset(_elements(kinds))
    _check(types, {int(row[0] or 0) for row in relations})
    if "Database/DROP" in types:
        _check_dropped(server.query(DROPPED, start), knowledge)
    blocks = {(int(row[1] or 0), int(row[2] or 0)): list(map(int, _elements(row[3]))) for row in relations}
    truncated = "Storage/TRUNCATE" in types
    files = bool(types & FILES) or any(_is_catalog(rel, knowledge) for rel in blocks)
    return Touched(blocks, truncated, files, aborted="Transaction/ABORT" in types)


def _read(server: Server, start: str) -> list[tuple[str | None, ...]]:
    import psycopg

    try:
        return server.ask(READ, start)
    except psycopg.Error as error:
        if server.control.closed:
            raise
        raise UnprovenError("the log since the lease began could not be read") from error


def _elements(array: str | None) -> list[str]:
    """Of an array in PostgreSQL's spelling, of numbers or plain words."""
    return array[1:-1].split(",") if array and array != "{}" else []


def spelled(position: int) -> str:
    """A log position as PostgreSQL spells it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _check(types: frozenset[str], spaces: set[int]) -> None:
    if not spaces <= DEFAULT_SPACES:
        raise UnprovenError("a tablespace was used")
    for name in types - FILES:
        manager, _, kind = name.partition("/")
        known = manager in NAMES_ITS_BLOCKS or manager in NOT_IN_DATABASES or (manager == "XLOG" and kind in XLOG)
        if not known or name in FORGETTING:
            raise UnprovenError(f"the log has records of a kind that cannot be undone ({name})")


def _check_dropped(rows: list[tuple[str]], knowledge: Knowledge) -> None:
    """``dir 1663/16384`` for each place of a dropped database (dbasedesc.c)."""
    for (description,) in rows:
        places = [word.split("/") for word in description.split() if "/" in word]
        if any(int(place[-1]) in knowledge.databases for place in places):
            raise UnprovenError("a database of the base was dropped")


def _is_catalog(relation: Relation, knowledge: Knowledge) -> bool:
    """Whether a relation is a catalog, or may be one: then what the server remembers of it has to go too."""
    database, number = relation
    catalogs = knowledge.catalogs.get(database)
    return catalogs is None or number in catalogs or relation not in knowledge.manifest.relations
