"""The data of a branch: a copy-on-write branch of the local provider, whose server runs, sleeps or was never started.

A store remembers the states it was seen in, each with the time and the position in the log up to which it held: a
fork from the past is a fork from one of these.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.control_file import position
from pytest_lakebranch.providers.local.provider import LocalProvider

REMEMBERED = 16
"""How many states are kept, beside the first: each is a copy where the storage shares nothing."""
EXACT = 1e-6
"""Seconds to which times are written."""
WHERE = "select pg_current_wal_insert_lsn()::text"
SIZE = "select sum(pg_database_size(oid))::bigint from pg_database where datallowconn"
BUSY = """select count(*) from pg_stat_activity
where backend_type in ('client backend', 'walsender') and pid <> pg_backend_pid() and state <> 'idle'"""


class ForkPoints:
    """Frozen presents, given back to the provider when neither a branch nor a snapshot needs them any more."""

    def __init__(self, provider: LocalProvider) -> None:
        self._provider = provider
        self._users: Counter[ForkPoint] = Counter()
        self._lock = threading.Lock()

    def hold(self, point: ForkPoint) -> ForkPoint:
        """Keep ``point`` until it is let go as often as it was held."""
        with self._lock:
            self._users[point] += 1
        return point

    def let_go(self, point: ForkPoint) -> None:
        """The opposite of :meth:`hold`."""
        with self._lock:
            self._users[point] -= 1
            if self._users[point] > 0:
                return
            del self._users[point]
        self._provider.forget(point)


@dataclass(slots=True)
class Moment:
    """A state of a branch, and when it was that: from one time and position in the log to another."""

    point: ForkPoint
    since: float
    until: float
    lsn: str
    last_lsn: str

    def holds_at(self, time: float | None, lsn: str | None) -> bool:
        """Whether the branch was in this state then."""
        if lsn is not None:
            return position(self.lsn) <= position(lsn) <= position(self.last_lsn)
        return time is not None and self.since - EXACT <= time <= self.until + EXACT


@dataclass
class Store:
    """The data of one branch, which began as ``at``. All methods may be called from any thread.

    Raises BranchError or MachineError when a server cannot be started, or is gone.
    """

    provider: LocalProvider
    points: ForkPoints
    name: str
    at: ForkPoint
    born: float
    lsn: str = "0/0"
    bytes: int = 0
    runs: bool = False
    moments: list[Moment] = field(default_factory=list)
    _compute: LocalCompute | None = None
    _rest: ForkPoint | None = None
    _removed: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.points.hold(self.at)
        self.moments.append(Moment(self.at, self.born, self.born, self.lsn, self.lsn))

    def running(self) -> LocalCompute:
        """The branch's compute, started or woken if need be; that of a server that died is started on its files."""
        with self._lock:
            if self._removed:
                raise BranchError(f"{self.name} is deleted.")
            if self._compute is None:
                self._compute = self._started()
            elif not (self.runs and self._compute.server.is_alive):
                self.runs = False
                self._compute = self.provider.resume(self._compute)
            self.runs = True
            self._rest = None
            return self._compute

    def _started(self) -> LocalCompute:
        compute = self.provider.start(self.name, self.at)
        if not isinstance(compute, LocalCompute):
            raise TypeError(f"{self.name} is no branch of the local provider")
        return compute

    def suspend(self) -> None:
        """Stop the server, if it runs, and with it all connections."""
        with self._lock:
            if self.runs and self._compute is not None:
                self.runs = False
                if self._compute.server.is_alive:
                    self._measure(self._compute)
                    self.provider.suspend(self._compute)

    def suspend_unless(self, wanted: Callable[[], bool]) -> None:
        """As :meth:`suspend`, unless somebody has wanted the server meanwhile: then :meth:`running` comes after."""
        with self._lock:
            if not wanted():
                self.suspend()

    def is_busy(self) -> bool:
        """Whether a client's statement or transaction is under way."""
        with self._lock:
            alive = self.runs and self._compute is not None and self._compute.server.is_alive
            return alive and self._compute is not None and self._compute.server.query(BUSY)[0][0] > 0

    def present(self, now: float) -> Moment:
        """The state that the branch is in, frozen. A sleeping server is woken for it and put to sleep again."""
        with self._lock:
            if self._compute is None and not self._removed:
                self.moments[-1].until = now
                return self.moments[-1]
            if not self.runs and self._rest is not None:
                return self._seen(self._rest, now, self.lsn)
            slept = not self.runs
            compute = self.running()
            before = self._where(compute)
            point = compute.fork_point()
            self.lsn = self._where(compute)
            self._measure(compute)
            moment = self._seen(point, now, before)
            if slept:
                self.suspend()
                self._rest = point
            return moment

    def _seen(self, point: ForkPoint, now: float, before: str) -> Moment:
        last = self.moments[-1]
        if last.point == point:
            last.until, last.last_lsn = now, self.lsn
            return last
        self.points.hold(point)
        self.moments.append(Moment(point, now, now, before, self.lsn))
        for old in self.moments[1:-REMEMBERED]:
            self.moments.remove(old)
            self.points.let_go(old.point)
        return self.moments[-1]

    def past(self, now: float, *, time: float | None, lsn: str | None) -> Moment | None:
        """The state the branch was in then, if it is known."""
        with self._lock:
            self.present(now)
            return next((each for each in reversed(self.moments) if each.holds_at(time, lsn)), None)

    def forget_before(self, time: float) -> None:
        """Let go of states that ended before ``time``, but the first and the present one."""
        with self._lock:
            old = [each for each in self.moments[1:-1] if each.until < time]
            self.moments = [each for each in self.moments if each not in old]
        for each in old:
            self.points.let_go(each.point)

    @staticmethod
    def _where(compute: LocalCompute) -> str:
        return str(compute.server.query(WHERE)[0][0])

    def _measure(self, compute: LocalCompute) -> None:
        self.bytes = int(compute.server.query(SIZE)[0][0])

    def remove(self) -> None:
        """Stop the server and delete the files. Idempotent."""
        with self._lock:
            if self._removed:
                return
            self._removed, self.runs = True, False
            self._rest = None
            if self._compute is not None:
                self._compute.discard(disposable=True)
            moments, self.moments = self.moments, []
        for each in moments:
            self.points.let_go(each.point)
