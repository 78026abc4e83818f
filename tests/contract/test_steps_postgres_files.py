"""``postgres:`` steps that copy the files of a running server: what the base is then, and how they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_rigs import SYSTEM_15, Rig, Volumes, processes_in, rig, run_sql
from original_rigs import PASSWORD, ROLES, SHOP, Original, built, refusing
from step_servers import Server, running, standby_of

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.model import Endpoint, ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.files import Application
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["local_fixtures", "original_fixtures", "step_fixtures"]


def contents(at: ForkPoint) -> bytes:
    """All bytes of all files of a layer."""
    return b"".join(path.read_bytes() for path in Path(at.location).rglob("*") if path.is_file())


def test_base_is_as_any_other(shop: Original, quick: Rig) -> None:
    """It has the database, the roles that the database needs, and nothing else of the original."""
    (Path(shop.server.sockets) / "data" / "server.key").write_text("the original's key")
    shop.execute("CREATE TABLE IF NOT EXISTS later AS SELECT 1 AS x", "CHECKPOINT")
    before = shop.execute("SELECT pg_snapshot_xmax(pg_current_snapshot()), (SELECT count(*) FROM pg_class)")
    at, told = built(quick, shop.use())
    assert told[0].endswith(" MB, physically")
    assert shop.execute("SELECT pg_snapshot_xmax(pg_current_snapshot()), (SELECT count(*) FROM pg_class)") == before
    assert shop.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT current_database(), current_user") == [("app", "postgres")]
    found = "SELECT count(*) FROM item WHERE name LIKE '%item 49%'"
    with connect(branch.endpoint, options="-c enable_seqscan=off") as conn:
        assert "item_name" in str(conn.execute(f"EXPLAIN {found}").fetchall())
        assert conn.execute(found).fetchall() == [(111,)]
    assert run_sql(branch, "SELECT nextval('item_id_seq'), convert_from(lo_get(4711), 'UTF8')") == [(5001, "large")]
    assert run_sql(branch, "SELECT * FROM visit") == []
    roles = "SELECT rolname, rolcanlogin, rolsuper FROM pg_roles WHERE oid >= 16384 ORDER BY 1"
    assert run_sql(branch, roles) == [("clerk", False, False), ("reader", False, False)]
    assert run_sql(branch, "SELECT has_table_privilege('reader', 'item', 'SELECT')") == [(True,)]
    databases = "SELECT datname, datdba::regrole::text FROM pg_database ORDER BY 1"
    others = [(name, "postgres") for name in ("postgres", "template0", "template1")]
    assert run_sql(branch, databases) == [("app", "postgres"), *others]
    assert run_sql(branch, "SHOW work_mem") == [("4MB",)]
    assert run_sql(branch, "SELECT count(*) FROM pg_db_role_setting") == [(0,)]
    everything = contents(at)
    assert b"item 4999" in everything
    assert b"SCRAM-SHA-256$" not in everything
    assert b"the original's key" not in everything
    empty = quick.provider.cached(quick.provider.root_key)
    assert empty is not None
    ours, theirs = ({path.name for path in Path(one.location).iterdir()} for one in (empty, at))
    assert theirs == ours
    branch.discard()


@pytest.mark.parametrize("options", [(), ("--no-data-checksums", "--wal-segsize=64")], ids=["usual", "unusual"])
def test_rewind_and_fork(options: tuple[str, ...], quick: Rig, monkeypatch: pytest.MonkeyPatch, shop: Original) -> None:
    """Branches of it are found clean, rewound after writes and DDL, and forked; whatever the original was made with."""
    with contextlib.ExitStack() as stack:
        if options:
            other = stack.enter_context(running("embedded", *options, min_wal_size="128MB", max_wal_size="256MB"))
            shop = Original(other, "postgres", monkeypatch)
            shop.execute(ROLES, SHOP)
        at, told = built(quick, shop.use())
    assert told[0].endswith("physically")
    branch = quick.start(at=at)
    run_sql(branch, "SELECT count(*) FROM item JOIN account USING (id)")
    run_sql(branch, "DROP TABLE visit")
    assert branch.rewind() is None
    branch.mark()
    for statement in ("DELETE FROM item", "ALTER TABLE item ADD more int DEFAULT 1", "CREATE TABLE new (x int)"):
        run_sql(branch, statement)
        branch.end_connections()
        assert "wrote" in (branch.change() or "")
        assert branch.rewind() is None
        branch.mark()
        assert run_sql(branch, "SELECT count(*), max(id) FROM item") == [(5000, 5000)]
    run_sql(branch, "UPDATE account SET amount = 7")
    fork = quick.start("fork", branch.fork_point())
    assert run_sql(fork, "SELECT sum(amount) FROM account") == [(700,)]
    for compute in (fork, branch):
        compute.discard()


@pytest.mark.soak
def test_snapshots(shop: Original, local_volumes: Volumes) -> None:
    """Where branches are snapshots the files come into what can be snapshotted."""
    with rig(local_volumes.home("snapshot") / "files", storage="snapshot") as made:
        at, told = built(made, shop.use())
        assert told[0].endswith("physically")
        branch = made.start(at=at)
        assert run_sql(branch, "SELECT count(*) FROM item") == [(5000,)]
        branch.discard()


@pytest.mark.soak
def test_own_role_and_database(shop: Original, shared_home: Path) -> None:
    """The role of lakebranch_user is an ordinary one, also where it was more in the original."""
    with rig(shared_home, user="clerk", database="wanted") as made:
        at, told = built(made, shop.use("copier"))
        assert told[0].endswith("physically")
        branch = made.start(at=at)
        query = (
            "SELECT current_database(), rolname::text, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
        assert run_sql(branch, query) == [("wanted", "clerk", False, True)]
        assert run_sql(branch, "SELECT count(*) FROM item") == [(5000,)]
        branch.discard()


def test_written_to_meanwhile(shop: Original, quick: Rig) -> None:
    """The copy is a state that the original was in, and its indexes fit its tables."""
    over = threading.Event()

    def write() -> None:
        with shop.server.connect(shop.name) as conn:
            while not over.is_set():
                conn.execute(
                    "WITH taken AS (UPDATE account SET amount = amount - 1 WHERE id <= 50 RETURNING id) "
                    "UPDATE account SET amount = amount + 1 WHERE id > 50"
                )
                conn.execute("INSERT INTO item (name) VALUES ('new')")

    def hurry() -> None:
        poll(lambda: _waits_for_checkpoint(shop) or over.is_set() or None, deadline=Deadline(60))
        shop.execute("CHECKPOINT")

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(write), threads.submit(hurry)]
        try:
            at, told = built(quick, shop.use())
        finally:
            over.set()
        for work in working:
            work.result()
    assert told[0].endswith("physically")
    branch = quick.start(at=at)
    ((total, low),) = run_sql(branch, "SELECT sum(amount), min(amount) FROM account")
    assert total == 10_000
    assert low < 100
    with connect(branch.admin, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION amcheck")
        for index in ("item_pkey", "account_pkey"):
            conn.execute("SELECT bt_index_check(%s::regclass, heapallindexed => true)", [index])
        assert conn.execute("SELECT count(*) FROM item WHERE name = 'new'").fetchone() > (0,)
    branch.discard()


@pytest.mark.soak
def test_subscriptions_stay_away(shop: Original, quick: Rig, quick_path: Path) -> None:
    """One that is active in the original is not in the base; nobody connects to the publisher, nor has its password."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as publisher:
        publisher.bind(str(quick_path / ".s.PGSQL.5432"))
        publisher.listen()
        publisher.setblocking(False)
        where = f"host={quick_path} dbname=x password=of-the-publisher"
        shop.execute(
            f"CREATE SUBSCRIPTION news CONNECTION '{where}' PUBLICATION all_of_it WITH (connect = false)",
            "UPDATE pg_subscription SET subenabled = true",
            "CHECKPOINT",
        )
        try:
            for way in ("physical", "dump"):
                at, _ = built(quick, f"{shop.use()} copy={way}")
                branch = quick.start(at=at)
                assert run_sql(branch, "SELECT count(*) FROM pg_subscription") == [(0,)]
                assert run_sql(branch, "SELECT count(*) FROM pg_replication_origin") == [(0,)]
                branch.discard()
                assert b"of-the-publisher" not in contents(at)
        finally:
            shop.execute(
                "DELETE FROM pg_subscription", "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin"
            )
        with pytest.raises(BlockingIOError):
            publisher.accept()


def _waits_for_checkpoint(shop: Original) -> int | None:
    """The process of pg_basebackup while the original prepares its checkpoint, at its own pace."""
    query = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'waiting for checkpoint to finish'"
    if shop.execute(query) != [(1,)]:
        return None
    commands = {path: path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _mine(path)}
    found = [int(path.parent.name) for path, command in commands.items() if b"/pg_basebackup\0" in command]
    return found[0] if found else None


def _mine(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return b"pg_basebackup" in path.read_bytes()
    return False


def test_interrupted(shop: Original, quick: Rig) -> None:
    """The program ends with us, the original is left alone, nothing is left; and no argument had the password."""
    shop.execute("INSERT INTO item (name) SELECT 'more ' || n FROM generate_series(1, 20000) n")
    seen: list[bytes] = []

    def interrupt() -> None:
        pid = poll(lambda: _waits_for_checkpoint(shop), deadline=Deadline(30))
        seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
        seen.append(Path(f"/proc/{pid}/environ").read_bytes())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            built(quick, shop.use())
    finally:
        thread.join()
    command, environment = seen
    assert PASSWORD.encode() not in command
    assert f"PGPASSWORD={PASSWORD}".encode() in environment
    assert b"--checkpoint=spread" in command
    assert processes_in(quick.run) == []
    assert [name for name in quick.left() if "/building/" in name] == []
    shop.execute("CHECKPOINT")  # whoever waits for one does not look whether its client is still there
    senders = "SELECT count(*) FROM pg_stat_replication"
    assert poll(lambda: True if shop.execute(senders) == [(0,)] else None, deadline=Deadline(20))


def test_connection_that_breaks(shop: Original, quick: Rig) -> None:
    """It is an error, which says what else can be done; nothing is left."""
    shop.execute("INSERT INTO item (name) SELECT 'more ' || n FROM generate_series(1, 20000) n")

    def end() -> None:
        assert poll(lambda: _waits_for_checkpoint(shop), deadline=Deadline(30))
        shop.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")

    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(end)
        with pytest.raises(BaseError, match=r"(?s)failed at pg_basebackup:.*With copy=dump") as caught:
            built(quick, shop.use())
        ended.result()
    assert PASSWORD not in str(caught.value)
    assert [name for name in quick.left() if "/building/" in name] == []


class Broken:
    """A step that brings nothing of use."""

    label = "broken"

    def fingerprint(self) -> str:
        """See Step."""
        return "broken"

    def apply(self, place: Workplace) -> str:
        """See Step."""
        assert place.replacement is not None
        assert place.replacement.directory() is not None
        place.replacement.take_over("shop")
        return ""


def test_not_recovered(quick: Rig) -> None:
    """What no server can start on is an error with the server's words; nothing is left, nor built upon."""
    with pytest.raises(BaseError, match=r"cannot be taken over \(recover it\): .*FATAL: ") as caught:
        built(quick, Broken())
    assert "server died" not in str(caught.value)
    assert [name for name in quick.left() if "/building/" in name] == []


COPYING = """
import sys
from pathlib import Path
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.programs import run_against

sockets, name, into = sys.argv[1:]
source = {"host": sockets, "user": "postgres", "dbname": name}
place = Workplace(Endpoint("", 0, "", ""), find("embedded"), Path(into))
run_against(source, place, "pg_basebackup", f"--pgdata={into}/data", "--checkpoint=spread", cwd=Path(into))
"""


def test_killed(shop: Original, quick_path: Path) -> None:
    """A worker that is killed takes the program along: nobody would be there to end it."""
    shop.execute("INSERT INTO item (name) SELECT 'more ' || n FROM generate_series(1, 20000) n")
    command = [sys.executable, "-c", COPYING, str(shop.server.sockets), shop.name, str(quick_path)]
    with subprocess.Popen(command) as worker:
        pid = poll(lambda: _waits_for_checkpoint(shop), deadline=Deadline(30))
        worker.kill()
    assert pid is not None
    assert poll(lambda: None if is_running(pid) else True, deadline=Deadline(10))
    shop.execute("CHECKPOINT")


def test_after_other_steps(shop: Original, quick: Rig) -> None:
    """What they have done would be lost."""
    (quick.home / "first.sql").write_text("CREATE TABLE first (x int)")
    at, told = built(quick, "sql:first.sql", shop.use())
    assert told[1].endswith(", by dump: only the first step of a local base can copy files")
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT count(*) FROM first, item") == [(0,)]
    branch.discard()


@pytest.mark.soak
def test_before_other_steps(shop: Original, quick: Rig) -> None:
    """They work on the copy, with its server."""
    (quick.home / "second.sql").write_text("CREATE EXTENSION btree_gin; UPDATE account SET amount = 1")
    at, told = built(quick, shop.use(), "sql:second.sql")
    assert told[0].endswith("physically")
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT sum(amount) FROM account") == [(100,)]
    branch.discard()


def test_replication_is_refused(quick: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only trying shows what pg_hba.conf allows; the server's own words are told."""
    (tmp_path / "hba").write_text("local all all trust\n")
    with running("embedded", hba_file=tmp_path / "hba") as closed:
        original = Original(closed, "postgres", monkeypatch)
        original.execute("CREATE TABLE item (id int)")
        at, told = built(quick, original.use())
    assert ", by dump: it takes no connection for replication: connection to server" in told[0]
    assert "no pg_hba.conf entry" in told[0]
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT count(*) FROM item") == [(0,)]
    branch.discard()


def test_made_with_another_superuser(
    quick: Rig, embedded_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers with POSTGRES_USER: it stays, without login, beside ours; it cannot be an ordinary role."""
    with running("embedded") as server:
        with server.connect() as conn:
            conn.execute("CREATE ROLE other LOGIN SUPERUSER; CREATE TABLE item (id int)")
        with connect(Endpoint(str(server.sockets), 5432, "other", "postgres"), autocommit=True) as conn:
            conn.execute("ALTER ROLE postgres RENAME TO shop")
        original = Original(server, "postgres", monkeypatch)
        at, told = built(quick, original.use("other"))
        named = parse(original.use("other"), root=tmp_path, application=Application("shop"))
        refused = named.apply(refusing(embedded_server.place(tmp_path)))
    assert told[0].endswith("physically")
    assert refused.endswith("shop, which tests connect as, is the superuser that it was made with")
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'item'") == [("shop",)]
    assert run_sql(branch, "SELECT rolname::text FROM pg_roles WHERE rolcanlogin") == [("postgres",)]
    branch.discard()


@pytest.mark.soak
def test_postgres_15(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest version that we know is copied in the same way, for itself."""
    if not Path(SYSTEM_15).exists():
        pytest.skip(f"no PostgreSQL 15 in {SYSTEM_15}")
    with running("system", "--data-checksums") as server:
        original = Original(server, "postgres", monkeypatch)
        original.execute(ROLES, SHOP)
        with rig(shared_home, postgres=SYSTEM_15, user="clerk") as made:
            at, told = built(made, original.use("copier"))
            branch = made.start(at=at)
            assert run_sql(branch, "SELECT count(*) FROM item") == [(5000,)]
            roles = "SELECT rolname::text, rolcanlogin, rolsuper FROM pg_roles WHERE oid >= 16384 ORDER BY 1"
            assert run_sql(branch, roles) == [("clerk", True, False), ("reader", False, False)]
            branch.discard()
    assert told[0].endswith("physically")


@pytest.mark.soak
def test_standby(quick: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby can be copied from, which is where a copy disturbs least."""
    with running("embedded") as primary:
        Original(primary, "postgres", monkeypatch).execute(ROLES, SHOP)
        with standby_of(primary) as standby:
            original = Original(standby, "postgres", monkeypatch)
            assert original.execute("SELECT pg_is_in_recovery()") == [(True,)]
            at, told = built(quick, original.use())
    assert told[0].endswith("physically")
    branch = quick.start(at=at)
    assert run_sql(branch, "SELECT count(*), pg_is_in_recovery() FROM item") == [(5000, False)]
    branch.discard()
