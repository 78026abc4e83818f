"""Forks of running branches: consistent while clients write, frozen, and made once for each state."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import psycopg
import pytest
from local_rigs import Rig, run_sql
from rewind_rigs import end_lease

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["local_fixtures"]

TOTAL = "select (select sum(amount) from checking) + (select sum(amount) from saving), (select count(*) from checking)"
MOVED = "select amount from saving where id = 1"


class Writers:
    """Clients that move money between two tables, in transactions, and write much else, until the block ends."""

    def __init__(self, compute: LocalCompute) -> None:
        self.compute = compute
        self.over = threading.Event()
        self.moves = 0
        self.threads = [threading.Thread(target=self.write, args=(seed,)) for seed in range(3)]

    def write(self, seed: int) -> None:
        chance = random.Random(seed)
        with connect(self.compute.endpoint) as connection:
            while not self.over.is_set():
                one, other = chance.randrange(1, 21), chance.randrange(1, 21)
                try:
                    connection.execute("update checking set amount = amount - 3 where id = %s", (one,))
                    connection.execute("insert into noise select md5(g::text) from generate_series(1, 300) g")
                    connection.execute("update saving set amount = amount + 3 where id = %s", (other,))
                    if chance.random() < 0.05:
                        connection.execute("truncate noise")
                    connection.commit()
                    self.moves += 1
                except psycopg.errors.DeadlockDetected:
                    connection.rollback()

    def fork_point_after(self, moves: int) -> ForkPoint:
        """A fork point taken in the middle of the work, when so many more moves have been made."""
        target = self.moves + moves
        assert poll(lambda: self.moves >= target or None, deadline=Deadline(30))
        return self.compute.fork_point()

    def __enter__(self) -> Writers:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


def test_forks_are_consistent_while_clients_write(any_rung: Rig) -> None:
    """In every fork the sum over two tables is right, also through indexes, though transactions were under way."""
    parent = any_rung.start("parent")
    with Writers(parent) as writers:
        points = [writers.fork_point_after(5) for _ in range(3)]
    for number, point in enumerate(points):
        fork = any_rung.start(f"fork{number}", point)
        assert run_sql(fork, TOTAL) == [(4000, 20)]
        assert run_sql(fork, "select count(*) from noise where v is null") == [(0,)]
        with connect(fork.endpoint) as connection:
            connection.execute("set enable_seqscan = off")
            assert connection.execute("select count(*) from item where name > ''").fetchall() == [(2000,)]
        fork.discard()
    assert run_sql(parent, TOTAL) == [(4000, 20)]


def test_fork_is_frozen_and_reused(any_rung: Rig) -> None:
    """A fork point shows its moment for ever, is the same one until something is written, and then another."""
    parent = any_rung.start("parent")
    run_sql(parent, "update saving set amount = 7 where id = 1")
    first = parent.fork_point()
    assert parent.fork_point() == first
    run_sql(parent, "update saving set amount = 8 where id = 1")
    second = parent.fork_point()
    assert second != first
    forks = [any_rung.start("one", first), any_rung.start("two", second)]
    assert [run_sql(fork, MOVED) for fork in forks] == [[(7,)], [(8,)]]


def test_untouched_branch_forks_for_nothing(any_rung: Rig) -> None:
    """The fork point of a branch that nobody wrote to is the one it was made from."""
    at = any_rung.base()
    parent = any_rung.start("parent", at)
    run_sql(parent, "select * from item")
    assert parent.fork_point() == at


def test_configuration_alone_makes_a_new_fork_point(local: Rig) -> None:
    """ALTER SYSTEM moves no log position, and yet the fork has it."""
    parent = local.start("parent")
    run_sql(parent, "alter system set work_mem = '7MB'")
    fork = local.start("fork", parent.fork_point())
    assert run_sql(fork, "show work_mem") == [("7MB",)]


def test_fork_of_a_fork_after_its_parents_are_gone(any_rung: Rig) -> None:
    """A fork can be forked again, and needs neither the server nor the fork point it came from."""
    parent = any_rung.start("parent")
    run_sql(parent, "update saving set amount = 7 where id = 1")
    point = parent.fork_point()
    child = any_rung.start("child", point)
    parent.discard()
    any_rung.provider.forget(point)
    run_sql(child, "update saving set amount = amount + 1 where id = 1")
    grandchild = any_rung.start("grandchild", child.fork_point())
    child.discard()
    assert run_sql(grandchild, MOVED) == [(8,)]


def test_forgotten_fork_point_is_removed_and_made_anew(local: Rig) -> None:
    """Forgotten fork points cannot be started from, are not handed out again, and do not pile up."""
    parent = local.start("parent")
    run_sql(parent, "delete from item")
    point = parent.fork_point()
    local.start("child", point).discard()
    local.provider.forget(point)
    with pytest.raises(BranchError, match="no layer or frozen present"):
        local.start("late", point)
    for number in range(3):
        again = parent.fork_point()
        assert again != point
        local.provider.forget(again)
        run_sql(parent, "insert into item values (%s, 'x')", number)
    assert list((local.run / "frozen").iterdir()) == []


def test_fork_points_come_and_go(any_rung: Rig) -> None:
    """Forking again and again, and forgetting, gives each branch the rows of its moment."""
    parent = any_rung.start("parent")
    for number in range(1, 4):
        run_sql(parent, "update saving set amount = %s where id = 1", number)
        run_sql(parent, f"create table made{number} as select 1")
        point = parent.fork_point()
        child = any_rung.start("child", point)
        assert run_sql(child, MOVED) == [(number,)]
        run_sql(child, "drop table item")
        run_sql(child, "update saving set amount = -1")
        child.discard()
        any_rung.provider.forget(point)


def test_forks_are_clean_when_only_read(local: Rig) -> None:
    """A branch of a fork point, fresh rows and all, is in its marked state after it was only read."""
    parent = local.start("parent")
    run_sql(parent, "insert into item select g, 'x' from generate_series(5000, 6000) g")
    run_sql(parent, "create table fresh as select g from generate_series(1, 100) g")
    fork = local.start("fork", parent.fork_point())
    assert run_sql(fork, "select (select count(*) from item), (select count(*) from fresh)") == [(3001, 100)]
    fork.end_connections()
    assert fork.change() is None


def test_fork_without_the_tests_database(local: Rig) -> None:
    """A parent whose database was dropped is forked as it is; the fork cannot be connected to, as the parent."""
    parent = local.start("parent")
    with connect(parent.server.endpoint("postgres"), autocommit=True) as connection:
        connection.execute("drop database app")
    fork = local.start("fork", parent.fork_point())
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        connect(fork.endpoint)


def test_unlogged_rows_are_not_forked(local: Rig) -> None:
    """Unlogged tables are there in a fork, and empty, as after a crash."""
    parent = local.start("parent")
    run_sql(parent, "create unlogged table u as select 1 as i")
    fork = local.start("fork", parent.fork_point())
    assert run_sql(fork, "select count(*) from u") == [(0,)]


def test_uncommitted_work_is_not_in_a_fork(local: Rig) -> None:
    """A transaction under way in the parent is not in the fork, and goes on in the parent."""
    parent = local.start("parent")
    with connect(parent.endpoint) as connection:
        connection.execute("update saving set amount = 0")
        fork = local.start("fork", parent.fork_point())
        assert run_sql(fork, MOVED) == [(100,)]
        connection.commit()
    assert run_sql(parent, MOVED) == [(0,)]


def test_temporary_tables_are_not_forked(local: Rig) -> None:
    """The files of a temporary table that a client of the parent has are none of the fork's, which can be rewound."""
    parent = local.start("parent")
    with connect(parent.endpoint, autocommit=True) as connection:
        connection.execute("create temp table mine as select 1")
        connection.execute("insert into noise values ('x')")
        point = parent.fork_point()
    assert list(Path(point.location).glob("base/*/t*")) == []
    fork = local.start("fork", point)
    run_sql(fork, "delete from noise")
    assert end_lease(fork)[0] == "rewind"


@pytest.mark.parametrize("elsewhere", [True, False])
def test_tablespaces_are_not_forked(local: Rig, tmp_path: Path, elsewhere: bool) -> None:
    """What parent and fork would share is named, with what to do; without it the parent can be forked."""
    parent = local.start("parent")
    tmp_path.chmod(0o777)
    with connect(parent.endpoint, autocommit=True) as connection:
        connection.execute("set allow_in_place_tablespaces = on")
        connection.execute(f"create tablespace space location '{tmp_path if elsewhere else ''}'")
        says = "parent cannot be forked: it has tablespaces, which the fork would share: space. Drop them"
        with pytest.raises(BranchError, match=says):
            parent.fork_point()
        connection.execute("drop tablespace space")
    assert run_sql(local.start("fork", parent.fork_point()), TOTAL) == [(4000, 20)]
