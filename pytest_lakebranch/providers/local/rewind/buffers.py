"""Emptying shared buffers, wholly or of some relations: what was put back in files must not be overwritten."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pytest_lakebranch.providers.local import control_file
from pytest_lakebranch.providers.local.rewind.manifest import Relation
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.waiting import Deadline, poll

PATIENCE = 1.0
"""Seconds for a buffer to be let go of by the process that is just using it."""
EVICT = """
select count(*) filter (where not (pg_buffercache_evict(bufferid)).buffer_evicted),
       pg_current_wal_insert_lsn()::text from (
  select bufferid from pg_buffercache where reldatabase = any($1::oid[]) and relfilenode = any($2::oid[]) offset 0
) found"""
EVICT_ALL = "select buffers_skipped, pg_current_wal_insert_lsn()::text from pg_buffercache_evict_all()"


def evict(server: Server, relations: Collection[Relation]) -> int:
    """Write out and drop what is in memory of these relations (and, harmlessly, of others with the same numbers).

    Returns where the log stands then.
    """
    databases, numbers = (_array({relation[place] for relation in relations}) for place in (0, 1))
    return _until_none_is_left(lambda: server.ask(EVICT, databases, numbers))


def evict_all(server: Server) -> int:
    """Write out and drop everything that is in memory; where the log stands then."""
    return _until_none_is_left(lambda: server.ask(EVICT_ALL))


def _until_none_is_left(attempt: Callable[[], list[tuple[str | None, ...]]]) -> int:
    """A buffer that is in use is refused; raises UnprovenError when one stays so."""

    def try_it() -> str | None:
        left, position = attempt()[0]
        return None if left != "0" else position

    position = poll(try_it, deadline=Deadline(PATIENCE))
    if position is None:
        raise UnprovenError("a page in memory stayed in use")
    return control_file.position(position)


def _array(numbers: Collection[int]) -> str:
    return "{" + ",".join(map(str, numbers)) + "}"
