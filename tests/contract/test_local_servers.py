"""Servers of the local provider: whom their end reaches, and that no setting of the user's reaches our own work."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_rigs import Rig, run_sql
from rewind_rigs import end_lease

from pytest_lakebranch.branches.background import Background
from pytest_lakebranch.branches.pool import Pool
from pytest_lakebranch.branches.stock import Fixed
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.processes import kill_if
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.processes import (
    Group,
    child_pids,
    close_handles,
    is_child,
    is_running,
    open_handles,
)
from pytest_lakebranch.providers.local.rewind.knowledge import Knowledge, learn
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.providers.local.storage.base import Sealed
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["local_fixtures"]


@contextmanager
def stranger(directory: Path | None = None) -> Iterator[tuple[int, int]]:
    """A program that is none of ours, with a child: their pids."""
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], cwd=directory) as program:
        found = poll(lambda: child_pids(program.pid) or None, deadline=Deadline(5))
        assert found is not None
        (child,) = found
        yield program.pid, child
        assert program.poll() is None
        assert child_pids(program.pid) == {child}
        os.kill(child, signal.SIGKILL)


def kill(compute: LocalCompute) -> None:
    """Kill the postmaster, and wait for it."""
    compute.server.process.kill()
    compute.server.process.wait()


def test_number_of_a_dead_server_is_a_strangers(local: Rig) -> None:
    """Whoever got the pid of a server that was killed, and its children, are left alone; its orphans are not."""
    compute = local.start()
    backends = child_pids(compute.server.pid)
    kill(compute)
    with stranger() as (pid, _):
        compute.server.process.pid = pid
        with pytest.raises(BranchError, match="did not stop cleanly"):
            compute.server.stop_cleanly()
        compute.discard()
    assert poll(lambda: True if not any(map(is_running, backends)) else None, deadline=Deadline(5))


def test_person_in_a_data_directory(local_rig) -> None:
    """A shell that works in the data directory of a server is not ended with it."""
    with local_rig(storage="copy") as made:
        compute = made.start(at=made.base("create table t (i int)"))
        with stranger(compute.data):
            kill(compute)
            assert not compute.server.stop_at_once()


def test_postmaster_killed_while_it_is_told_to_stop(local_rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not ended by itself, so that its shared memory has to be removed, although no process is left to end."""
    with local_rig() as made:
        compute = made.start(at=made.base("create table t (i int)"))
        monkeypatch.setattr(Group, "of", _killed_after(Group.of))
        assert not compute.server.stop_at_once()


def _killed_after(of: Callable[[int | None, Path], Group]) -> Callable[[int | None, Path], Group]:
    """As ``of``, but that the postmaster is killed then, and its children have ended."""

    def found(pid: int | None, data: Path) -> Group:
        group = of(pid, data)
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            assert poll(lambda: None if any(map(is_running, group.handles)) else True, deadline=Deadline(10))
        return group

    return found


def test_handles_are_of_who_was_found() -> None:
    """A process that got the pid of one that was found is neither held nor killed."""
    with stranger() as (pid, child):
        assert open_handles([child], lambda found: is_child(found, os.getpid())) == {}
        handles = open_handles([child], lambda found: is_child(found, pid))
        assert list(handles) == [child]
        close_handles(handles)
        kill_if(child, lambda found: is_child(found, os.getpid()))


def test_failed_stop_leaves_no_descriptor(local: Rig) -> None:
    """A server that does not stop in time is an error, and neither its processes nor its files are held any more."""
    compute = local.start()
    compute.server.close_connection()
    assert compute.server.folder >= 0
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(BranchError, match="did not stop cleanly"):
        compute.server.stop_cleanly(0.0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1  # that of the data directory


HOSTILE = {
    "search_path": "app",
    "default_transaction_read_only": "on",
    "idle_session_timeout": "300ms",
    "statement_timeout": "60ms",
    "lock_timeout": "1ms",
    "debug_parallel_query": "on",
    "max_parallel_workers_per_gather": "2",
    "transaction_timeout": "60ms",
}
WRITABLE = "-c default_transaction_read_only=off -c statement_timeout=0 -c transaction_timeout=0"
MUCH = "create schema app; create table app.item as select g, repeat(md5(g::text), 20) from generate_series(1, 40000) g"


def patient(compute: LocalCompute, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement as a client who may write and has time."""
    with connect(compute.endpoint, autocommit=True, options=WRITABLE) as client:
        done = client.execute(sql)
        return done.fetchall() if done.description else []


def test_settings_of_the_user_do_not_reach_our_sessions(local_rig) -> None:
    """With settings that forbid writing, take longer and end what is idle: built, kept clean, rewound and forked."""
    settings = tuple(f"{name}={value}" for name, value in HOSTILE.items())
    with local_rig(settings=settings) as made:
        compute = made.provider.build("base", None)
        patient(compute, MUCH)
        at = made.provider.seal(compute, "hostile0" * 8)
        branch = made.start(at=at)
        time.sleep(0.5)
        assert patient(branch, "select count(*) from item") == [(40000,)]
        assert end_lease(branch) == ("clean", "")
        patient(branch, "create table stray (x int)")
        patient(branch, "delete from item where g < 3")
        child = made.start("child", branch.fork_point())
        assert patient(child, "select count(*) from item") == [(39998,)]
        assert end_lease(branch)[0] == "rewind"
        branch.mark()
        assert patient(branch, "select count(*), to_regclass('stray') from item") == [(40000, None)]


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As often as there are elements in it, a server dies at once when its control connection was opened again."""
    open_control, deaths = Server.open_control, list[int]()

    def open_and_die(server: Server) -> None:
        open_control(server)
        if deaths:
            deaths.pop()
            os.kill(server.pid, signal.SIGSTOP)  # else it ends the others when the first has gone
            for pid in (*child_pids(server.pid), server.pid):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()

    monkeypatch.setattr(Server, "open_control", open_and_die)
    return deaths


def taken_in_time(pool: Pool) -> Compute:
    """The pool's next branch; whoever would wait for ever is sent away."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pool.take)
        try:
            return waiting.result(timeout=20)
        except TimeoutError:
            pool.close()
            raise


def test_death_before_a_spare_is_settled(local: Rig, dying: list[int]) -> None:
    """A server that dies while its branch becomes a spare again is said to be dead, and another takes its place."""
    at, names, background = local.base(), itertools.count(), Background()
    pool = Pool(local.provider, at, name=lambda: f"b{next(names)}", stock=Fixed(0), background=background)
    with pool.held():
        for where in (pool, None):
            compute = pool.take()
            assert isinstance(compute, LocalCompute)
            run_sql(compute, "create table stray (x int)")
            assert end_lease(compute)[0] == "rewind"
            dying.append(1)
            if where is None:
                with pytest.raises(BranchError, match=f"the server of {compute.name} died"):
                    compute.mark()
            pool.give_back(compute, reusable=where is not None)
            following = taken_in_time(pool)
            assert following is not compute
            pool.give_back(following, reusable=False)
    pool.close()
    background.close()
    assert [trouble for trouble in background.troubles if " died" not in trouble] == []
    assert len(background.troubles) == 1


def test_loan_that_could_not_begin_is_over(local: Rig) -> None:
    """A branch that cannot be marked, however often, is not lent: its fork point can be forgotten."""
    frozen = local.start().fork_point()
    background = Background()
    pool = Pool(local.provider, frozen, name=lambda: "b", stock=Fixed(0), background=background)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(LocalCompute, "settle", kill)
        with pytest.raises(BranchError, match="died"):
            pool.take()
    pool.close()
    background.close()
    assert pool._forgotten


def test_position_is_asked_before_anything_else(local: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while a sealed state is learned of is not taken for a part of it."""

    def learn_and_write(server: Server, sealed: Sealed) -> Knowledge:
        server.query("select pg_logical_emit_message(false, 'a', 'b', true)")
        return learn(server, sealed)

    monkeypatch.setattr("pytest_lakebranch.providers.local.compute.learn", learn_and_write)
    at = local.base("create table learned (x int)", key="learned0" * 8)
    first, second = local.start("first", at), local.start("second", at)
    for compute in (first, second):
        assert end_lease(compute) == ("clean", "")


def test_rewinding_does_not_go_by_an_older_look(local: Rig) -> None:
    """How much was written is asked anew when the end of a lease did not come to it."""
    compute = local.start()
    assert compute.change() is None
    with connect(compute.endpoint, autocommit=True) as client:
        client.execute("select pg_logical_emit_message(false, 'a', repeat('x', 70 << 20))")
        assert compute.change() == "a client is connected"
    assert compute.end_connections() <= 1
    assert compute.rewind() == "more was written than is worth reading"
