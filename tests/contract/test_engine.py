"""The engine over a real local provider, in this process: bases, pools, leases, and what is left when it closes."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.ledger import entries
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.waiting import Deadline, poll
from tests.contract.engine_rigs import EMPTY, Make, execute, request

pytest_plugins = ["engine_fixtures"]


def test_a_branch_that_was_only_read_is_used_again(engine: Engine) -> None:
    """A clean lease gives its branch to the next one."""
    first = engine.lease(request(engine))
    execute(first, "SELECT 1")
    assert engine.release(first.lease).ending == "clean"
    second = engine.lease(request(engine))
    assert second.branch == first.branch
    assert second.lease != first.lease


def test_a_branch_that_was_written_to_is_rewound(engine: Engine) -> None:
    """The next lease sees nothing of what was written; the end says how much that was."""
    first = engine.lease(request(engine))
    execute(first, "SELECT lo_from_bytea(0, 'x')")
    end = engine.release(first.lease)
    assert end.ending == "rewind"
    assert "WAL" in end.reason
    second = engine.lease(request(engine))
    assert execute(second, "SELECT count(*) FROM pg_largeobject") == [(0,)]


def test_a_branch_whose_structure_was_changed_is_rewound(engine: Engine) -> None:
    """It serves again as soon as the server has forgotten what it remembered."""
    names = set()
    for number in range(4):
        grant = engine.lease(request(engine))
        assert execute(grant, "SELECT to_regclass('t')") == [(None,)]
        execute(grant, "CREATE TABLE t (x int)")
        assert engine.release(grant.lease).ending == "rewind", number
        names.add(grant.branch)
    assert len(names) < 4


def test_a_branch_that_cannot_be_rewound_is_replaced(engine: Engine) -> None:
    """The next lease has another branch, and the end says why."""
    first = engine.lease(request(engine))
    execute(first, "ALTER SYSTEM SET work_mem = '1MB'")
    end = engine.release(first.lease)
    assert (end.ending, end.reason) == ("replace", "configuration changed")
    second = engine.lease(request(engine))
    assert second.branch != first.branch
    assert execute(second, "SHOW work_mem") == [("4MB",)]


def test_a_connection_left_open_is_ended_and_counted(engine: Engine) -> None:
    """The client of an ended lease gets an error, and the lease's end has the number."""
    grant = engine.lease(request(engine))
    with connect(grant.endpoint) as left:
        left.execute("SELECT 1")
        assert engine.release(grant.lease).connections == 1
        with pytest.raises(psycopg.OperationalError):
            left.execute("SELECT 1")


def test_an_address_leads_nowhere_when_its_lease_has_ended(engine: Engine) -> None:
    """Also when the branch behind it serves another test already."""
    first = engine.lease(request(engine))
    engine.release(first.lease)
    engine.lease(request(engine))
    with pytest.raises(psycopg.OperationalError, match="No such file"):
        connect(first.endpoint)


def test_a_lease_ends_once(engine: Engine) -> None:
    """Releasing, resetting or forking what has ended is an error that names it."""
    grant = engine.lease(request(engine))
    engine.release(grant.lease)
    for action in (engine.release, engine.reset, lambda lease: engine.lease(request(engine, parent=lease))):
        with pytest.raises(BranchError, match=grant.lease):
            action(grant.lease)


def test_reset_keeps_the_address(engine: Engine) -> None:
    """After reset the same URL shows the state in which the branch was leased."""
    grant = engine.lease(request(engine))
    execute(grant, "CREATE TABLE t (x int)")
    again = engine.reset(grant.lease)
    assert again.endpoint == grant.endpoint
    assert execute(grant, "SELECT to_regclass('t')") == [(None,)]
    execute(grant, "ALTER SYSTEM SET work_mem = '1MB'")  # which cannot be undone in place
    assert engine.reset(grant.lease).endpoint == grant.endpoint
    assert execute(grant, "SHOW work_mem") == [("4MB",)]
    assert engine.release(grant.lease).ending == "clean"


def test_a_disposable_branch_is_a_superusers_and_never_used_again(engine: Engine) -> None:
    """Even if nothing was written."""
    grant = engine.lease(request(engine, disposable=True))
    assert execute(grant, "SELECT usesuper FROM pg_user WHERE usename = current_user") == [(True,)]
    end = engine.release(grant.lease)
    assert (end.ending, end.reason) == ("replace", "destructive")
    assert engine.lease(request(engine)).branch != grant.branch


def test_the_branch_of_the_run_is_one(engine: Engine) -> None:
    """Workers that ask at the same time get the same branch, and it survives the worker that asked first."""
    with ThreadPoolExecutor(4) as workers:
        grants = list(workers.map(lambda n: engine.lease(request(engine, "run", worker=f"gw{n}")), range(4)))
    assert len({grant.branch for grant in grants}) == 1
    execute(grants[0], "CREATE TABLE t (x int)")
    for number in range(4):
        engine.worker_gone(f"gw{number}")
    assert execute(engine.lease(request(engine, "run", worker="gw9")), "SELECT count(*) FROM t") == [(0,)]


def test_a_fork_has_the_parents_present(engine: Engine) -> None:
    """What the parent writes later is not in it, and what it writes is not in the parent."""
    parent = engine.lease(request(engine, "worker"))
    execute(parent, "CREATE TABLE t AS SELECT 1 AS x")
    child = engine.lease(request(engine, parent=parent.lease, present=True))
    assert child.parent == parent.branch
    execute(parent, "INSERT INTO t VALUES (2)")
    execute(child, "INSERT INTO t VALUES (3)")
    assert execute(parent, "SELECT x FROM t ORDER BY x") == [(1,), (2,)]
    assert execute(child, "SELECT x FROM t ORDER BY x") == [(1,), (3,)]
    engine.release(child.lease)
    later = engine.lease(request(engine, parent=parent.lease, present=True))
    assert execute(later, "SELECT x FROM t ORDER BY x") == [(1,), (2,)]


def test_a_fork_outlives_its_parent(engine: Engine) -> None:
    """Ending the parent's lease takes nothing from its children."""
    parent = engine.lease(request(engine))
    execute(parent, "CREATE TABLE t AS SELECT 1 AS x")
    child = engine.lease(request(engine, "fork", parent=parent.lease))
    engine.release(parent.lease)
    assert execute(child, "SELECT x FROM t") == [(1,)]


def test_what_a_dead_worker_held_is_ended(engine: Engine) -> None:
    """Its branches are not given to anybody, and other workers keep theirs."""
    dead = engine.lease(request(engine, worker="gw0"))
    alive = engine.lease(request(engine, worker="gw1"))
    engine.worker_gone("gw0")
    with pytest.raises(BranchError):
        engine.release(dead.lease)
    assert execute(alive, "SELECT 1") == [(1,)]
    (lost,) = [lease for lease in engine.summary().leases if lease.worker == "gw0"]
    assert lost.end is not None
    assert "gw0 ended" in lost.end.reason


def test_a_server_that_died_is_replaced(engine: Engine) -> None:
    """The end of the lease says that it died; the next lease is sound."""
    grant = engine.lease(request(engine))
    with connect(grant.endpoint) as connection:
        kill_server_of(connection)
    end = engine.release(grant.lease)
    assert end.ending == "replace"
    assert "died" in end.reason
    assert execute(engine.lease(request(engine)), "SELECT 1") == [(1,)]


def kill_server_of(connection: psycopg.Connection[Any]) -> None:
    """kill -9 the postmaster of a connection, and wait until the connection notices."""
    import signal

    from pytest_lakebranch.processes import stat_fields

    os.kill(int(stat_fields(connection.info.backend_pid)[1]), signal.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT pg_sleep(60)")


def test_spares_that_died_are_passed_over(engine: Engine) -> None:
    """A test gets a sound branch although the server of a spare was killed while it was idle."""
    grants = [engine.lease(request(engine)) for _ in range(2)]
    for grant in grants:
        engine.release(grant.lease)
    assert kill_idle_servers(engine) > 0
    assert execute(engine.lease(request(engine)), "SELECT 1") == [(1,)]


def kill_idle_servers(engine: Engine) -> int:
    """kill -9 all servers of this process that are not on loan; how many there were."""
    import signal

    (pool,) = engine._pools.values()
    servers = [compute.server for compute in pool._idle]
    for server in servers:
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
    return len(servers)


def test_whoever_waits_hears_of_a_start_that_failed(engine: Engine, tmp_path: Path) -> None:
    """Also of a failure that no provider foresaw: nobody waits for ever."""
    grant = engine.lease(request(engine))
    shutil.rmtree(Path(grant.endpoint.host).parent)
    with pytest.raises(BranchError, match=r"No such file|died"):  # that of a spare which was just starting
        exhaust(engine)


def exhaust(engine: Engine) -> None:
    """Take more branches than are ready."""
    for _ in range(20):
        engine.lease(request(engine))


def test_reset_when_the_parent_has_moved_on(engine: Engine) -> None:
    """A fork can be put back to the state in which it was leased, whatever has become of its parent."""
    parent = engine.lease(request(engine, "worker"))
    execute(parent, "CREATE TABLE t AS SELECT 1 AS x")
    child = engine.lease(request(engine, parent=parent.lease, present=True))
    execute(parent, "INSERT INTO t VALUES (2)")
    later = engine.lease(request(engine, "fork", parent=parent.lease))
    execute(child, "DROP TABLE t")
    engine.reset(child.lease)
    assert execute(child, "SELECT x FROM t") == [(1,)]
    assert execute(later, "SELECT count(*) FROM t") == [(2,)]


def test_workers_that_fork_a_moving_parent_at_once(engine: Engine) -> None:
    """Each gets a branch of one of the parent's states; none is refused."""
    parent = engine.lease(request(engine, "run"))
    execute(parent, "CREATE TABLE t (x int)")

    def work(number: int) -> int:
        execute(parent, f"INSERT INTO t VALUES ({number})")
        child = engine.lease(request(engine, parent=parent.lease, worker=f"gw{number}", present=True))
        ((count,),) = execute(child, "SELECT count(*) FROM t")
        engine.release(child.lease)
        return int(count)

    with ThreadPoolExecutor(4) as workers:
        assert all(1 <= count <= 4 for count in workers.map(work, range(4)))


def test_a_frozen_present_goes_with_its_last_branch(engine: Engine, shared_home: Path, tmp_path: Path) -> None:
    """What nobody will fork from again does not fill the disk until the run ends."""
    parent = engine.lease(request(engine))
    for number in range(3):
        execute(parent, f"CREATE TABLE t{number} (x int)")
        engine.release(engine.lease(request(engine, parent=parent.lease, present=True)).lease)
    engine.release(parent.lease)
    (run,) = [path for path in (shared_home / "runs").iterdir() if tmp_path.name in path.name]
    frozen = run / "frozen"
    assert poll(lambda: True if not list(frozen.iterdir()) else None, deadline=Deadline(20)), list(frozen.iterdir())


def test_work_that_is_done_once(engine: Engine) -> None:
    """One worker does it while the others ask again; if it dies at it, another does it."""
    assert engine.once.begin("seed", "gw0")
    assert engine.once.begin("seed", "gw1") is None
    engine.worker_gone("gw0")
    assert engine.once.begin("seed", "gw1")
    assert engine.once.begin("seed", "gw2") is None
    engine.once.end("seed", done=True)
    assert engine.once.begin("seed", "gw2") is False


def test_many_threads(engine: Engine) -> None:
    """Leases from eight threads at once never share a branch and never see what another wrote."""
    names: list[str] = []
    lock = threading.Lock()

    def work(number: int) -> None:
        for turn in range(3):
            grant = engine.lease(request(engine, worker=f"gw{number}"))
            with lock:
                assert grant.branch not in names
                names.append(grant.branch)
            assert execute(grant, "SELECT to_regclass('t')") == [(None,)]
            if turn % 2 == 0:
                execute(grant, "CREATE TABLE t (x int)")
            with lock:
                names.remove(grant.branch)
            engine.release(grant.lease)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(work, number) for number in range(8)]:
            done.result(120)


def test_close_leaves_nothing(make: Make, shared_home: Path, tmp_path: Path) -> None:
    """Processes, branches and addresses are gone; the ledger tells the story of each lease."""
    engine = make()
    engine.bases.request("gw0", EMPTY)
    with running(engine):
        held = engine.lease(request(engine))
        execute(held, "CREATE TABLE t (x int)")
        engine.lease(request(engine, "fork", parent=held.lease))
    (run,) = [path for path in (shared_home / "runs").iterdir() if tmp_path.name in path.name]
    assert [path for path in run.rglob("*") if path.is_file()] == []
    assert not Path(held.endpoint.host).exists()
    events = [(entry["event"], entry.get("branch")) for entry in entries(tmp_path / "ledger0")]
    assert events.count(("lease", held.branch)) == events.count(("release", held.branch)) == 1
