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


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it was before the migration.

    ``rows`` is PostgreSQL's estimate, ``size`` in bytes with its indexes, ``columns`` their numbers (attnum).
    """

    oid: int
    name: str
    filenode: int
    rows: int
    size: int
    columns: frozenset[int] = frozenset()


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
    """A table whose rows were all written again. ``size`` is in bytes, before."""

    table: str
    reason: str
    rows: int
    size: int

    def __str__(self) -> str:
        return f"{self.table} ({self.reason}; {self.rows:,} rows, {self.size:,} bytes)"


@dataclass(frozen=True, slots=True)
class IndexMade:
    """An index of a table that was there before; ``alone``: made while nobody could write."""

    name: str
    table: str
    alone: bool
    rows: int


@dataclass(frozen=True, slots=True)
class RequiredColumn:
    """A column that was added NOT NULL without a default, in one statement."""

    table: str
    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that was measured of one migration. ``duration`` is in seconds.

    ``wal_bytes`` is what the server wrote to its log; ``statements`` are those that change the schema, in order, each
    as the client sent it.
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
