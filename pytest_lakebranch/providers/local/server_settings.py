"""The settings that every server gets on its command line, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_lakebranch.state import PORT

ALWAYS: dict[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "off",  # a branch does not survive its run
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "8MB",  # many servers at once, each with little data of its own; evicting looks at all of it
    "huge_pages": "off",  # a few megabytes gain nothing, and the machine's supply may be short
    "autovacuum": "off",  # it would write to a branch that its test only reads
    "bgwriter_lru_maxpages": "0",
    "max_logical_replication_workers": "0",
    "max_wal_senders": "0",
    "max_replication_slots": "0",
    "wal_level": "replica",  # the least with which a running branch can be copied
    "wal_log_hints": "on",  # so that nothing changes a page without moving the log
    "wal_keep_size": "256MB",  # the log since a lease began must stay readable
    "wal_init_zero": "off",
    "min_wal_size": "2MB",
    "checkpoint_timeout": "1d",
    "restart_after_crash": "off",  # a crashed branch is replaced: recovery would redo what was undone
    "log_destination": "stderr",
    "logging_collector": "off",
}
BUILDING: dict[str, str] = {
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "4GB",
    "wal_keep_size": "0",
}
"""What differs while a base is built: loading much data has other needs than a short test."""


OUR_SESSIONS: dict[str, str] = {
    "search_path": "public",  # where the extensions are that rewinding uses
    "default_transaction_read_only": "off",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "max_parallel_workers_per_gather": "0",  # then debug_parallel_query does nothing (standard_planner, planner.c)
}
"""What lakebranch_settings, and those of roles and databases, must not change in sessions of our own."""
SINCE_17 = {"transaction_timeout": "0", "event_triggers": "off"}
"""A login trigger of the user's would write, or refuse."""


def of_our_sessions(major: int) -> dict[str, str]:
    """:data:`OUR_SESSIONS` as far as this version knows them."""
    return OUR_SESSIONS | (SINCE_17 if major >= 17 else {})


def flags(
    *, sockets: Path | None, major: int, own_ipc: bool, user: Mapping[str, str], building: bool = False
) -> list[str]:
    """The ``-c`` flags of a server; the user's settings come last and win, but where, without sockets, we are alone."""
    ours = dict(ALWAYS)
    # Without an IPC namespace of its own, what a killed server held would stay in the system.
    ours["dynamic_shared_memory_type"] = "sysv" if own_ipc else "mmap"
    ours["unix_socket_directories"] = "" if sockets is None else _quoted(str(sockets))
    if major >= 18:
        ours["io_method"] = "sync"  # no worker processes
        ours["max_active_replication_origins"] = "0"  # their progress is in shared memory, and would outlive its test
    if building:
        ours |= BUILDING
    alone = of_our_sessions(major) if sockets is None else {}
    pairs = [*ours.items(), *user.items(), *alone.items()]
    return [word for name, value in pairs for word in ("-c", f"{name}={value}")]


def _quoted(path: str) -> str:
    """As one element of a list of directories (SplitDirectoriesString, varlena.c)."""
    return '"' + path.replace('"', '""') + '"'
