"""What a server must be like for rewinding to be sound: its settings, and two extensions."""

from __future__ import annotations

from pytest_lakebranch.processes import LINUX
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server

SINCE = 18
"""The first version with pg_buffercache_evict_all() and a flushing pg_logical_emit_message()."""
EXTENSIONS = ("pg_walinspect", "pg_buffercache")
FUNCTIONS = ("pg_get_wal_block_info(pg_lsn,pg_lsn,boolean)", "pg_buffercache_evict_all()")
REQUIRED: dict[str, tuple[str, ...]] = {
    "wal_level": ("replica", "logical"),  # less does not log enough to know what was touched
    "wal_log_hints": ("on",),  # else a page changes without moving the log (XLogSaveBufferForHint, xloginsert.c)
    "restart_after_crash": ("off",),  # recovery would redo what was undone
    "autovacuum": ("off",),  # it would write at any time
    "fsync": ("off",),  # the checkpointer would look for files that were removed (ProcessSyncRequests, sync.c)
    "bgwriter_lru_maxpages": ("0",),  # else it keeps files open that were replaced
    "io_method": ("sync",),  # so do the processes of the other methods
    "max_logical_replication_workers": ("0",),  # they write at any time
    "max_active_replication_origins": ("0",),  # their progress is not in the databases (origin.c)
    "block_size": ("8192",),  # how the program was built: files.py counts in it
    "segment_size": ("1GB",),
}
"""Settings, and the values with which the proof holds. The user's own settings win over ours, and may differ."""
LIBRARIES = frozenset({"auto_explain", "auth_delay", "passwordcheck", "pg_overexplain", "pg_stat_statements"})
"""Preloaded libraries that neither write to databases nor start processes. What pg_stat_statements counts is, like
PostgreSQL's own statistics, that of the server and not put back; what others keep in memory may be wrong afterwards.
"""
PRELOADED = """
select trim(name, ' "') from regexp_split_to_table(current_setting('shared_preload_libraries'), ',') as name
where name <> ''"""
SETTINGS = "select " + ", ".join(f"current_setting('{name}', true)" for name in REQUIRED)
FOUND = "select " + " and ".join(f"to_regprocedure('{name}') is not null" for name in FUNCTIONS)


def check(server: Server) -> None:
    """Raise UnprovenError when branches of this server cannot be rewound at all."""
    if not LINUX:
        raise UnprovenError("rewinding needs Linux")
    major = server.control.info.server_version // 10000
    if major < SINCE:
        raise UnprovenError(f"PostgreSQL {major} cannot be rewound ({SINCE} can)")
    if not server.query(FOUND)[0][0]:
        raise UnprovenError(f"this PostgreSQL has no {' or no '.join(EXTENSIONS)} (contrib): rewinding needs both")
    for (name, allowed), value in zip(REQUIRED.items(), server.query(SETTINGS)[0], strict=True):
        if value not in allowed:
            raise UnprovenError(f"{name}={value} cannot be rewound")
    if unknown := {row[0] for row in server.query(PRELOADED)} - LIBRARIES:
        raise UnprovenError(f"shared_preload_libraries={','.join(sorted(unknown))} cannot be rewound")
