"""What a lease costs in the engine, without its test: by how it ends, and by the size of the base."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Figure, median, provider, workplace
from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.model import Grant
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.waiting import Deadline, poll

ROUNDS = 200
FEW = 40
TABLES = "".join(f"CREATE TABLE t{n} (id serial PRIMARY KEY, a text, b text UNIQUE);" for n in range(10))
ROWS = "INSERT INTO t{n} (a, b) SELECT repeat(md5(g::text), 8), md5(g::text) FROM generate_series(1, {rows}) g;"
ROW_BYTES = 400
"""Of one row above with its entries in two indexes, about."""
INSERT = "INSERT INTO t1 (a, b) VALUES ('x', 'y')"
MANY = tuple(
    statement
    for n in range(2)
    for statement in (
        f"INSERT INTO t{n} (a, b) SELECT 'x', 'new' || g FROM generate_series(1, 20) g",
        f"UPDATE t{n} SET a = 'y' WHERE id <= 40",
        f"DELETE FROM t{n} WHERE id BETWEEN 50 AND 70",
    )
)
STRUCTURE = ("CREATE TABLE fresh (id serial PRIMARY KEY, v text)", "ALTER TABLE t2 ADD COLUMN z int DEFAULT 5")


def figures() -> Iterator[Figure]:
    """Small and large bases on this machine's disk."""
    with workplace() as home:
        yield from of_size(home / "small", 10)
    with workplace() as home:
        yield from of_size(home / "large", 2000, names=("data",))


def of_size(home: Path, megabytes: int, *, names: tuple[str, ...] = ()) -> Iterator[Figure]:
    """All kinds of leases, or those named, on a base of this size."""
    home.mkdir()
    with bench(home, megabytes) as made:
        for name, (what, case, target) in CASES.items():
            if not names or name in names:
                yield Figure(f"{megabytes} MB: {what}", case(made), "ms", target)


@dataclass
class Bench:
    """An engine with a base."""

    engine: Engine
    base: str

    def lease(self, *, disposable: bool = False) -> tuple[Grant, float]:
        """A lease, and the milliseconds it took."""
        request = Request("main", "test", "test", self.base, disposable=disposable)
        began = time.perf_counter()
        grant = self.engine.lease(request)
        return grant, (time.perf_counter() - began) * 1e3

    def cost(
        self, *work: str, expected: str, lasts: float = 0.0, disposable: bool = False, gone: bool = True
    ) -> tuple[float, float]:
        """Milliseconds waited for a lease and for its end; the test's connection is the test's own, and so is
        its end, unless not ``gone``.
        """
        grant, leasing = self.lease(disposable=disposable)
        with connect(grant.endpoint, autocommit=True) as session:
            for statement in work:
                session.execute(statement)
            server = session.info.backend_pid
        time.sleep(lasts)
        poll(lambda: None if gone and is_running(server) else True, deadline=Deadline(1), every=0.0001)
        began = time.perf_counter()
        end = self.engine.release(grant.lease)
        releasing = (time.perf_counter() - began) * 1e3
        if end.ending != expected:
            raise RuntimeError(f"the lease ended in {end.ending}: {end.reason}")
        return leasing, releasing

    def median(self, *work: str, rounds: int = ROUNDS, **how: object) -> float:
        """The median of many leases, once warm."""
        costs = [sum(self.cost(*work, **how)) for _ in range(rounds + 10)]  # type: ignore[arg-type]
        return median(costs[10:])


@contextmanager
def bench(home: Path, megabytes: int) -> Iterator[Bench]:
    """An engine whose base has ten tables of about this size together."""
    with provider(home, "auto") as made, workplace() as sockets:
        key = made.root_key
        with made.building(key):
            compute = made.build("base", None)
            with connect(compute.endpoint, autocommit=True) as session:
                session.execute(TABLES)
                rows = megabytes * 1_000_000 // ROW_BYTES // 10
                for n in range(10):
                    session.execute(ROWS.format(n=n, rows=rows))
            at = made.seal(compute, key)
        ledger = Ledger(home / "ledger")
        with running(Engine(made, ledger, addresses=sockets, workers=1)) as engine:
            engine.bases.fork_point = lambda _: at  # type: ignore[method-assign]  # built here, without steps
            yield Bench(engine, key)
        ledger.close()


CASES: dict[str, tuple[str, Callable[[Bench], float], float | None]] = {
    "clean": (
        "lease and release, clean",
        lambda b: b.median("SELECT count(*) FROM t1 WHERE id < 5", expected="clean"),
        0.5,
    ),
    "insert": ("lease and release, one INSERT rewound", lambda b: b.median(INSERT, expected="rewind"), 3),
    "insert at once": (
        "the same with the end of the test's connection",
        lambda b: b.median(INSERT, expected="rewind", gone=False),
        None,
    ),
    "data": ("lease and release, 50 blocks in 8 relations rewound", lambda b: b.median(*MANY, expected="rewind"), 3),
    "ddl": ("lease and release, DDL rewound", lambda b: b.median(*STRUCTURE, expected="rewind", rounds=FEW), 15),
    "destructive": (
        "lease and release, destructive, test of 50 ms",
        lambda b: b.median(INSERT, expected="replace", disposable=True, lasts=0.05, rounds=FEW),
        5,
    ),
    "destructive at once": (
        "lease and release, destructive, test of 0 ms",
        lambda b: b.median(INSERT, expected="replace", disposable=True, rounds=FEW),
        50,
    ),
}
