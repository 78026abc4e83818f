"""Emptying shared buffers, wholly or of some relations: what was put back in files must not be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pytest_lakebranch.providers.local import control_file
from pytest_lakebranch.providers.local.rewind.manifest import Relation
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.waiting import Deadline, poll

PATIENCE = 1.0
"""Seconds for a buffer to be let go of by the process that is just using it."""
EVICT = """
select count(*) filter (where not evicted), count(*) filter (where evicted and beyond),
       pg_current_wal_insert_lsn()::text from (
  select (pg_buffercache_evict(bufferid)).buffer_evicted as evicted, relforknumber = 0 and relblocknumber >= blocks
  from pg_buffercache join unnest($1::oid[], $2::oid[], $3::int8[]) as given (database, number, blocks)
    on reldatabase = database and relfilenode = number offset 0) as found (evicted, beyond)"""
EVICT_ALL = "select buffers_skipped, 0, pg_current_wal_insert_lsn()::text from pg_buffercache_evict_all()"
BEYOND = """
select count(*) from pg_buffercache join unnest($1::oid[], $2::oid[], $3::int8[]) as given (database, number, blocks)
  on reldatabase = database and relfilenode = number where relforknumber = 0 and relblocknumber >= blocks"""

Blocks = Mapping[Relation, int]
"""For each relation a number of blocks of its main fork."""


class Evicted(NamedTuple):
    """Where the log stands afterwards, and how many blocks of main forks were in memory beyond the given numbers."""

    position: int
    beyond: int


def evict(server: Server, blocks: Blocks) -> Evicted:
    """Write out and drop what is in memory of these relations."""
    return _until_none_is_left(lambda: server.ask(EVICT, *_columns(blocks)))


def evict_all(server: Server) -> Evicted:
    """Write out and drop everything that is in memory; nothing is beyond no numbers."""
    return _until_none_is_left(lambda: server.ask(EVICT_ALL))


def count_beyond(server: Server, blocks: Blocks) -> int:
    """How many blocks of main forks are in memory beyond the given numbers."""
    return int(server.ask(BEYOND, *_columns(blocks))[0][0] or 0)


def _until_none_is_left(attempt: Callable[[], list[tuple[str | None, ...]]]) -> Evicted:
    """A buffer that is in use is refused; raises UnprovenError when one stays so."""
    beyond = 0

    def try_it() -> str | None:
        nonlocal beyond
        left, found, position = attempt()[0]
        beyond += int(found or 0)
        return position if left == "0" else None

    position = poll(try_it, deadline=Deadline(PATIENCE))
    if position is None:
        raise UnprovenError("a page in memory stayed in use")
    return Evicted(control_file.position(position), beyond)


def _columns(blocks: Blocks) -> tuple[str, str, str]:
    databases, numbers = ([relation[place] for relation in blocks] for place in (0, 1))
    return _array(databases), _array(numbers), _array(blocks.values())


def _array(numbers: Iterable[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
