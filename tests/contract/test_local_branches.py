"""Branches of the local provider, on each storage rung: isolated, clean when only read, put back when used again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_rigs import Rig, processes_in, run_sql, try_sql

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.launch import IN_MOUNT_NAMESPACE
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.providers.local.storage.base import Place, Sealed
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["local_fixtures"]

COUNT = "select count(*) from item"


def test_branch_shows_base_and_is_isolated(any_rung: Rig) -> None:
    """Two branches of a base show its rows, and neither sees what the other writes."""
    one, two = any_rung.start("one"), any_rung.start("two")
    run_sql(one, "delete from item where id <= 500")
    run_sql(two, "insert into item values (0, 'new')")
    assert (run_sql(one, COUNT), run_sql(two, COUNT)) == ([(1500,)], [(2001,)])
    assert run_sql(any_rung.start("three"), COUNT) == [(2000,)]


def test_facts_name_rung_and_reason(any_rung: Rig, rung: str) -> None:
    """The provider says which rung it uses, on which file system."""
    assert any_rung.provider.facts.storage == rung
    assert "state directory is" in any_rung.provider.facts.storage_reason


def test_reading_leaves_branch_clean(any_rung: Rig) -> None:
    """Sequential, index and aggregate reads, after which the clients go, leave the branch in its marked state."""
    compute = any_rung.start()
    run_sql(compute, "select sum(id), max(name) from item")
    run_sql(compute, "select * from item where name = 'item 7'")
    assert compute.end_connections() == 0
    assert compute.change() is None


def test_used_again_after_random_work(any_rung: Rig, rung: str) -> None:
    """A parked branch that is taken again equals the sealed layer, byte for byte, whatever was done to it."""
    at = any_rung.base()
    chance = random.Random(7)
    for _ in range(2):
        compute = any_rung.start(at=at)
        _work(compute.name, connect(compute.endpoint, autocommit=True), chance)
        sealed = compute.at
        assert sealed is not None
        compute.discard()
        place = any_rung.provider._places.take(sealed)
        assert _differences(place, sealed) == []
        any_rung.provider._places.give_back(place, sealed, reusable=True)
    compute = any_rung.start(at=at)
    assert run_sql(compute, COUNT) == [(2000,)]
    assert compute.end_connections() == 0
    assert compute.change() is None


WORK = (
    "insert into item select g, 'x' from generate_series(3000, {n} + 3000) g on conflict do nothing",
    "update item set name = name || 'y' where id % 7 = {k}",
    "delete from item where id % 11 = {k}",
    "create table t{n}(id serial primary key, v text unique)",
    "create table c{n} as select * from item",
    "alter table item add column z{n} int default 5",
    "alter table saving alter column amount type bigint",
    "truncate checking",
    "drop table if exists saving",
    "create unlogged table u{n} as select * from item",
    "vacuum full item",
    "vacuum full pg_class",
    "reindex table pg_authid",
    "cluster item using item_pkey",
    "create database d{n}",
    "create database d{n} strategy file_copy",
    "create role r{n}",
    "alter system set work_mem = '{k}MB'",
    "alter database app set work_mem = '9MB'",
    "select nextval('ticket')",
    "select lo_from_bytea(0, 'abc')",
    "checkpoint",
    "analyze",
    "create index concurrently on item (lower(name))",
    "create extension if not exists pg_trgm",
)


def _work(name: str, connection: object, chance: random.Random) -> None:
    for _ in range(16):
        sql = chance.choice(WORK).format(n=chance.randrange(10**6), k=chance.randrange(1, 7))
        try_sql(connection, sql)  # type: ignore[arg-type]  # any psycopg connection
    connection.close()  # type: ignore[attr-defined]


def _differences(place: Place, sealed: Sealed) -> list[str]:
    """What ``diff`` finds between a branch that is not running and the layer, by names and bytes."""
    left_out = [f"--exclude={name}" for name in ("pg_internal.init", "lakebranch.init", "postmaster.*")]
    diff = ["diff", "--recursive", "--no-dereference", "--brief", *left_out, str(place.data), str(sealed.data)]
    if place.overlay is not None:
        mount = 'cd "$1" && mount -t overlay -o "$2" overlay merged && shift 2 && exec "$@"'
        words = ["sh", str(place.overlay.directory), place.overlay.options]
        diff = [*IN_MOUNT_NAMESPACE, "sh", "-c", mount, *words, *diff]
    done = subprocess.run(diff, capture_output=True, text=True, check=False)
    if place.overlay is not None:
        subprocess.run(["rm", "-rf", place.directory / "work/work/incompat"], check=True)
    return (done.stdout + done.stderr).splitlines()


def test_discarded_branch_is_gone(any_rung: Rig) -> None:
    """A disposable branch leaves neither process nor file when it is discarded; doing so twice is fine."""
    compute = any_rung.start()
    pid = compute.server.pid
    compute.discard(disposable=True)
    compute.discard(disposable=True)
    assert not Path(f"/proc/{pid}").exists()
    assert list((any_rung.run / "branches").iterdir()) == []
    assert processes_in(any_rung.run) == []


def test_parked_directories_are_bounded(local: Rig) -> None:
    """However many branches come and go, no more directories stay than branches lived at once."""
    for _ in range(3):
        one, two = local.start("one"), local.start("two")
        one.discard()
        two.discard()
    assert len(list((local.run / "branches").iterdir())) <= 2


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("insert into item values (0, 'x')", r"wrote [\d,]+ bytes of WAL"),
        ("begin; insert into item values (0, 'x'); rollback", r"wrote [\d,]+ bytes of WAL"),
        ("alter system set work_mem = '8MB'", "configuration changed"),
        ("create unlogged table u (i int)", r"wrote [\d,]+ bytes of WAL"),
        ("vacuum full item", r"wrote [\d,]+ bytes of WAL"),
    ],
)
def test_change_is_noticed(local: Rig, sql: str, reason: str) -> None:
    """Whatever a test wrote, committed or not, is a reason not to call its branch clean."""
    import re

    compute = local.start()
    with connect(compute.admin, autocommit=True) as connection:
        for statement in sql.split("; "):
            connection.execute(statement)
    compute.end_connections()
    assert re.fullmatch(reason, compute.change() or "")


def test_slots_and_prepared_transactions_are_changes(local_rig, tmp_path: Path) -> None:
    """What survives its session without being in the log is a reason too, where the user's settings allow it."""
    with local_rig(settings=("max_replication_slots=2", "max_wal_senders=2", "max_prepared_transactions=2")) as made:
        compute = made.start()
        run_sql(compute, "select pg_create_physical_replication_slot('s')")
        assert compute.end_connections() == 0
        assert compute.change() == "replication slots"
        with connect(compute.admin) as connection:
            connection.execute("lock table item")
            connection.execute("prepare transaction 'p'")
        with pytest.raises(BranchError, match="was written to while nobody had it"):
            compute.mark()
        assert compute.change() is not None


def test_unlogged_relations_are_never_clean(local: Rig) -> None:
    """A base with unlogged relations has no clean branches: nothing tells when one is written."""
    at = local.base("create unlogged table u (i int); insert into u values (1)", key="unlogged" * 8)
    compute = local.start(at=at)
    assert run_sql(compute, "select * from u") == [(1,)]
    compute.end_connections()
    assert compute.change() == "unlogged relations"


def test_unlogged_relation_made_before_the_lease_is_seen(system_15: Rig) -> None:
    """A branch that a stranger gave an unlogged relation is lent to nobody, where it cannot be put back."""
    compute = system_15.start()
    run_sql(compute, "create unlogged sequence s")
    compute.end_connections()
    with pytest.raises(BranchError, match="was written to while nobody had it"):
        compute.mark()
    run_sql(compute, "select nextval('s')")
    compute.end_connections()
    assert compute.change() is not None


def test_open_connections_are_ended_and_counted(local: Rig) -> None:
    """Idle, busy and half-open clients are ended and counted; those that closed by themselves are not."""
    compute = local.start()
    run_sql(compute, "select 1")
    idle, busy = connect(compute.endpoint), connect(compute.endpoint, autocommit=True)
    idle.execute("select 1")
    busy.pgconn.send_query(b"select pg_sleep(60)")
    assert compute.change() == "a client is connected"
    assert compute.end_connections() == 2
    assert compute.end_connections() == 0
    assert compute.change() is None
    idle.close()
    busy.close()


def test_server_killed_by_a_test(local: Rig) -> None:
    """A server that died is a reason for change, ends no connection, cannot be forked, and is discarded."""
    compute = local.start()
    os.kill(compute.server.pid, signal.SIGKILL)
    poll(compute.server.process.poll, deadline=Deadline(5))
    assert (compute.change() or "").startswith("server died")
    assert compute.end_connections() == 0
    with pytest.raises(BranchError, match="its server died"):
        compute.fork_point()
    compute.discard()
    assert processes_in(local.run) == []
    assert list((local.run / "branches").iterdir()) == []


def test_backend_killed_by_a_test(local: Rig) -> None:
    """When one backend is killed the server ends, instead of recovering into a state that nobody asked for."""
    compute = local.start()
    connection = connect(compute.endpoint)
    os.kill(connection.info.backend_pid, signal.SIGKILL)
    assert poll(compute.server.process.poll, deadline=Deadline(10)) is not None
    assert (compute.change() or "").startswith("server died")
    connection.close()


@pytest.mark.parametrize("ask", ["change", "death"])
def test_crash_that_the_postmaster_has_yet_to_see(local: Rig, ask: str) -> None:
    """A server one of whose processes has crashed is not taken for sound while its postmaster does not know yet."""
    compute = local.start()
    postmaster = compute.server.process
    with connect(compute.endpoint, autocommit=True) as client, ThreadPoolExecutor() as thread:
        postmaster.send_signal(signal.SIGSTOP)
        os.kill(client.info.backend_pid, signal.SIGKILL)
        assert poll(lambda: None if is_running(client.info.backend_pid) else True, deadline=Deadline(5))
        verdict = thread.submit(getattr(compute, ask))
        poll(lambda: verdict.done() or None, deadline=Deadline(0.2))  # who does not wait for it has an answer by now
        postmaster.send_signal(signal.SIGCONT)
        assert "terminated by signal 9" in (verdict.result() or "")


def test_role_is_no_superuser_in_branches(local_rig) -> None:
    """A role that the user names owns the database and is a superuser only while the base is built."""
    with local_rig(user="tester", database="shop") as made:
        compute = made.provider.build("base", None)
        with connect(compute.endpoint, autocommit=True) as connection:
            connection.execute("copy (select 1) to program 'cat > /dev/null'")
            connection.execute("create table t (i int)")
        branch = made.start(at=made.provider.seal(compute, made.provider.root_key))
        query = "select rolsuper, rolcreatedb, current_database()::text from pg_roles where rolname = session_user"
        assert run_sql(branch, query) == [(False, True, "shop")]
        assert branch.admin.user == "postgres"


def test_postgresql_15(system_15: Rig) -> None:
    """The oldest version that works does all of it: build, seal, branch, clean, fork."""
    assert system_15.provider.facts.postgres.startswith("15")
    compute = system_15.start()
    assert run_sql(compute, COUNT) == [(2000,)]
    compute.end_connections()
    assert compute.change() is None
    run_sql(compute, "delete from item")
    fork = system_15.start("fork", compute.fork_point())
    assert run_sql(fork, COUNT) == [(0,)]
