"""The engine: everything a run shares, as one object that works the same inside a test and inside the host."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pytest_lakebranch.branches.address import Address
from pytest_lakebranch.branches.background import Background
from pytest_lakebranch.branches.base import Bases
from pytest_lakebranch.branches.keeping import Keeping
from pytest_lakebranch.branches.lease import Loan, Request
from pytest_lakebranch.branches.once import Once
from pytest_lakebranch.branches.pool import Pool
from pytest_lakebranch.branches.stock import stock_for
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import Kept, open_command
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.model import ForkPoint, Grant, KeptBranch, Lease, LeaseEnd, Summary
from pytest_lakebranch.providers.base import Provider


class Engine:
    """Bases, pools and leases of one run over one provider.

    ``addresses`` is a short directory for the leases' addresses; ``workers`` is how many processes will ask. Without
    ``keeping`` no branch is kept.
    All methods may be called from any thread.
    """

    def __init__(  # noqa: PLR0913  (the last ones have defaults)
        self,
        provider: Provider,
        ledger: Ledger,
        *,
        addresses: Path,
        workers: int = 1,
        rebuild: bool = False,
        keeping: Keeping | None = None,
    ) -> None:
        self._provider = provider
        self._ledger = ledger
        self._addresses = addresses
        self._spares = workers + 1
        self._began = time.time()
        self._closed = False
        self._numbers = itertools.count(1)
        self.bases = Bases(provider, name=self._name, rebuild=rebuild)
        self.once = Once()
        self._background = Background(provider.at_a_time)
        provider.when_short(self._give_way)
        self._lock = threading.RLock()
        self._pools: dict[str, Pool] = {}
        self._loans: dict[str, Loan] = {}
        self._of_run: dict[str, Loan] = {}
        self._opening: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._ended: list[Lease] = []
        self._keeping = keeping
        self._kept: list[KeptBranch] = []

    def _name(self) -> str:
        return f"b{next(self._numbers)}"

    def _enter(self, event: str, **facts: object) -> None:
        """Nobody's lease fails because it cannot be recorded."""
        with self._background.noted():
            self._ledger.enter(event, **facts)

    def lease(self, request: Request) -> Grant:
        """A branch on loan, as asked for. The branch of the run is made once and given to everybody who asks.

        Raises BranchError or MachineError when no branch can be had.
        """
        if request.purpose != "run":
            return self._lend(request).grant
        with self._opening[request.base]:
            if request.base not in self._of_run:
                self._of_run[request.base] = self._lend(request)
        return self._of_run[request.base].grant

    def _lend(self, request: Request) -> Loan:
        began = time.monotonic()
        with self._where_from(request) as (pool, parent):
            compute = pool.take()
        waited = time.monotonic() - began
        lease = f"l{next(self._numbers)}"
        record = _record(lease, compute.name, request, parent=parent, waited=waited)
        try:
            loan = Loan(lease, request, pool, compute, Address(self._addresses / lease), record)
        except OSError as error:
            pool.give_back(compute, reusable=False)
            raise BranchError(f"branch {compute.name} cannot be given an address: {error}") from error
        with self._lock:
            self._loans[lease] = loan
        self._enter(
            "lease",
            lease=lease,
            branch=compute.name,
            parent=parent,
            test=request.test,
            worker=request.worker,
            purpose=request.purpose,
        )
        return loan

    @contextmanager
    def _where_from(self, request: Request) -> Iterator[tuple[Pool, str]]:
        if request.parent is None:
            yield self._base_pool(request.base, request.at), "base" if request.at is None else f"source@{request.at}"
            return
        parent = self._loan(request.parent)
        with parent.present(lambda at: self._pool(at, spares=1 if request.present else 0)) as pool:
            yield pool, parent.record.branch

    def _base_pool(self, base: str, at: str | None) -> Pool:
        key = base if at is None else f"{base}@{at}"
        with self._lock:
            if self._closed:
                raise BranchError("the run is ending: no more branches are given out.")
            if key not in self._pools:
                point = self.bases.fork_point(base) if at is None else self._provider.at(at)
                self._pools[key] = self._pool(point, spares=self._spares if at is None else 0)
            return self._pools[key]

    def _give_way(self) -> None:
        """Somebody waits for room: throw away one spare, of whatever pool has one.

        Raises BranchError when the run is ending: nobody needs what is waited for.
        """
        with self._lock:
            if self._closed:
                raise BranchError("the run is ending: no more branches are made.")
            pools = list(self._pools.values()) + [loan.children for loan in self._loans.values() if loan.children]
        for pool in pools:
            if pool.shed():
                return

    def _pool(self, at: ForkPoint, *, spares: int) -> Pool:
        stock = stock_for(self._provider, spares)
        return Pool(self._provider, at, name=self._name, stock=stock, background=self._background)

    def release(self, lease: str, *, failed: str = "") -> LeaseEnd:
        """End a lease; ``failed`` tells how its test failed. Raises BranchError when there is none of this name."""
        with self._lock:
            loan = self._loan(lease)
            del self._loans[lease]
        return self._end(loan, failed=failed)

    def _end(self, loan: Loan, *, failed: str = "", lost: str | None = None) -> LeaseEnd:
        ended = failed or lost is None
        note = self._keeping.note(loan.record, failed=failed) if self._keeping and ended else None
        end = loan.end(lost=lost, note=note)
        self._ended.append(loan.record)
        if loan.kept is not None:
            self._kept.append(_kept(loan.kept))
        self._enter("release", lease=loan.id, branch=loan.record.branch, **asdict(end))
        return end

    def reset(self, lease: str) -> Grant:
        """Put the branch of a lease back into the state the lease began with; its address stays."""
        grant = self._loan(lease).reset()
        self._enter("reset", lease=lease, branch=grant.branch)
        return grant

    def disconnect(self, lease: str, but: Collection[int]) -> int:
        """End the client connections of a leased branch, but those of the server processes ``but``; how many."""
        loan = self._loan(lease)
        with loan.lock:
            return loan.compute.end_connections(but=frozenset(but))

    def death(self, lease: str, *, seen: str = "") -> str | None:
        """What the server of a leased branch said last, if it has died; None while it lives.

        ``seen`` tells when, to those who share the branch and ask later.
        """
        return self._loan(lease).death(seen)

    def _loan(self, lease: str) -> Loan:
        with self._lock:
            if lease not in self._loans:
                if self._closed:
                    raise BranchError("the run is ending, and with it all leases.")
                raise BranchError(f"there is no lease {lease!r}: it was never given out or has ended.")
            return self._loans[lease]

    def worker_gone(self, worker: str) -> None:
        """End all that a worker held when it died or left; the branches of the run stay."""
        self.bases.void(worker)
        self.once.void(worker)
        with self._lock:
            held = [loan for loan in self._loans.values() if self._dies_with(worker, loan)]
            for loan in held:
                del self._loans[loan.id]
        for loan in held:
            with self._background.noted():
                what = f"{worker} ended without returning it"
                self._end(loan, failed=what, lost=what)

    @staticmethod
    def _dies_with(worker: str, loan: Loan) -> bool:
        return loan.request.worker == worker and loan.request.purpose != "run"

    def summary(self) -> Summary:
        """The run so far."""
        with self._lock:
            leases = (*self._ended, *(loan.record for loan in self._loans.values()))
        bases, troubles, remarks = self.bases.history, self._background.troubles, self._background.remarks
        more = tuple(troubles), tuple(self._kept), tuple(remarks)
        return Summary(self._provider.facts, leases, tuple(bases), self._began, time.time(), *more)

    def close(self) -> None:
        """End all leases, stop all computes and delete all branches. Idempotent.

        All is tried; what could not be done is in the summary.
        """
        noted = self._background.noted
        with self._lock:
            self._closed = True
            loans, self._loans = list(self._loans.values()), {}
            pools, self._pools = list(self._pools.values()), {}
        with noted():
            self.bases.close()
        for loan in loans:
            with noted():
                self._end(loan, lost="the run ended")
        for pool in pools:
            with noted():
                pool.close()
        self._background.close()
        with noted():
            self._provider.close()


def _record(lease: str, branch: str, request: Request, *, parent: str, waited: float) -> Lease:
    return Lease(
        lease,
        branch,
        request.test,
        request.worker,
        request.purpose,
        parent,
        under=request.parent,
        base=request.base,
        began=time.time(),
        waited=waited,
    )


def _kept(kept: Kept) -> KeptBranch:
    command = open_command(kept.test, kept.branch, kept.settings)
    return KeptBranch(kept.branch, kept.test, kept.worker, kept.until, kept.bytes, command)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """The engine until the block ends, however it ends."""
    try:
        yield engine
    finally:
        engine.close()
