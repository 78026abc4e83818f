"""A branch is a whole PostgreSQL server: transactions, row locks and several connections work as in production."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from inventory import orders, reports, stock
from inventory.db import connect
from inventory.errors import OutOfStockError


def at_the_same_time(*jobs: Callable[[], object]) -> list[BaseException | None]:
    """Start all jobs at once, each in its own thread; returns what each of them raised."""
    start = Barrier(len(jobs), timeout=10)

    def run(job: Callable[[], object]) -> None:
        start.wait()
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.exception() for future in [pool.submit(run, job) for job in jobs]]


def test_two_customers_one_last_lamp(lamp):
    """SELECT … FOR UPDATE lets one of them win; the other one waits, and then learns that it is gone."""
    with connect() as conn:
        stock.receive(conn, lamp, into="H0101", quantity=1)
        placed = [orders.place(conn, customer, {lamp: 1}) for customer in (1, 2)]

    def reserve(order: int) -> None:
        with connect() as conn:
            orders.reserve(conn, order)

    failures = at_the_same_time(*(lambda order=order: reserve(order) for order in placed))

    assert sorted(type(failure) for failure in failures if failure) == [OutOfStockError]
    with connect() as conn:
        assert stock.available(conn, lamp) == 0
        assert sorted(orders.status(conn, order) for order in placed) == ["open", "reserved"]


def test_moves_in_opposite_directions_do_not_deadlock(lamp):
    """Every function takes its locks in the same order, so nobody waits for somebody who waits for him."""
    with connect() as conn:
        for bay in ("H0101", "H0102"):
            stock.receive(conn, lamp, into=bay, quantity=100)

    def carry(source: str, target: str) -> None:
        with connect() as conn:
            for _ in range(20):
                stock.move(conn, lamp, source=source, target=target, quantity=1)
                conn.commit()

    def sell() -> None:
        with connect() as conn:
            for _ in range(20):
                order = orders.place(conn, 1, {lamp: 2})
                orders.reserve(conn, order)
                orders.ship(conn, order)
                conn.commit()

    failures = at_the_same_time(lambda: carry("H0101", "H0102"), lambda: carry("H0102", "H0101"), sell)

    assert failures == [None, None, None]
    with connect() as conn:
        assert stock.available(conn, lamp) == 200 - 40
    assert reports.out_of_step() == 0


def test_who_comes_second_waits(lakebranch):
    with lakebranch.connect() as first, lakebranch.connect(options="-c lock_timeout=50ms") as second:
        stock.lock_locations(first, ["L0307"])
        with pytest.raises(psycopg.errors.LockNotAvailable):
            stock.lock_locations(second, ["L0307"])
        second.rollback()
        first.rollback()
        assert stock.lock_locations(second, ["L0307"])


def test_a_reader_sees_one_moment(lakebranch):
    """REPEATABLE READ on one connection, a commit on another: the report stays consistent."""
    total = "SELECT sum(on_hand) FROM stock"
    with lakebranch.connect() as reader, lakebranch.connect() as writer:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        before = reader.execute(total).fetchone()
        stock.receive(writer, "P00001", into="H0101", quantity=100)
        writer.commit()
        assert reader.execute(total).fetchone() == before
        reader.rollback()
        assert reader.execute(total).fetchone() == (before[0] + 100,)
