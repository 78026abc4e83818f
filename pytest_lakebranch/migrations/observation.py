"""What a migration did, as it was measured."""

from __future__ import annotations

from dataclasses import dataclass

MODES = (
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
"""As pg_locks names them, the weakest first (PostgreSQL documentation, 13.3.1 "Table-Level Locks")."""
_NAMES = (
    "ACCESS SHARE",
    "ROW SHARE",
    "ROW EXCLUSIVE",
    "SHARE UPDATE EXCLUSIVE",
    "SHARE",
    "SHARE ROW EXCLUSIVE",
    "EXCLUSIVE",
    "ACCESS EXCLUSIVE",
)
_STOPS_WRITES = "ShareLock"
"""The weakest mode in which nobody else can write."""
TRUNCATED = "TRUNCATE"
REFRESHED = "REFRESH MATERIALIZED VIEW"
MAINTAINED = "CLUSTER, VACUUM FULL or SET TABLESPACE"
"""Reasons for other files of a table that PostgreSQL tells no event trigger."""


@dataclass(frozen=True, slots=True)
class Lock:
    """The strongest mode in which a table was locked, and for how many seconds it was held, at most.

    Exact to about two milliseconds. Tables that the migration made are not among them: nobody else knows those.
    """

    table: str
    mode: str
    held: float
    rows: int

    @property
    def level(self) -> str:
        """The mode as SQL writes it, such as ``ACCESS EXCLUSIVE``."""
        return _NAMES[MODES.index(self.mode)]

    @property
    def stops(self) -> str:
        """What others cannot do meanwhile: ``reads and writes``, ``writes``, or nothing."""
        if self.mode == MODES[-1]:
            return "reads and writes"
        return "writes" if MODES.index(self.mode) >= MODES.index(_STOPS_WRITES) else ""

    def __str__(self) -> str:
        stops = f" (stops {self.stops})" if self.stops else ""
        return f"{self.level} on {self.table} for {self.held * 1e3:.0f} ms{stops}"


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A table whose rows were all written again, or removed by TRUNCATE. ``size`` is in bytes, before."""

    table: str
    reason: str
    rows: int
    size: int

    def __str__(self) -> str:
        return f"{self.table} ({self.reason}; {self.rows:,} rows, {self.size:,} bytes)"


@dataclass(frozen=True, slots=True)
class IndexMade:
    """An index of a table that was there before; ``alone``: made while nobody could write; ``again``: by REINDEX."""

    name: str
    table: str
    alone: bool
    rows: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class RequiredColumn:
    """A column that every INSERT must give a value in the end, and needed none before.

    It may not be NULL and has no default, in a table that was there before; ``added``: the column was not.
    """

    table: str
    name: str
    rows: int
    added: bool = True


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was measured of one migration. ``duration`` is in seconds.

    ``wal_bytes`` is what the server wrote to its log, without images of whole pages: ``full_page_writes`` is off on
    branches, where a production server adds up to 8 kB for each page that it touches first after a checkpoint.
    ``statements`` are those that change the schema, in order, each as the client sent it.
    """

    duration: float = 0.0
    wal_bytes: int = 0
    locks: tuple[Lock, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    indexes: tuple[IndexMade, ...] = ()
    required: tuple[RequiredColumn, ...] = ()
    statements: tuple[str, ...] = ()

    @property
    def strongest(self) -> Lock | None:
        """The lock that others feel most; None when no table was locked."""
        return self.locks[0] if self.locks else None
