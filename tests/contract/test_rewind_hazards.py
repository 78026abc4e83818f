"""Each way in which undoing in place could go wrong, by its number in the list of hazards (H1 …): tried, and undone.

What cannot be undone must end in a replacement, with this reason.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from local_rigs import Rig, rig
from rewind_rigs import Oracle, answers, end_lease, grow, rewind_base
from rewind_work import BROKEN_OFF

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.rewind import buffers, files, rewinder, wal
from pytest_lakebranch.state import SOCKET_NAME

pytest_plugins = ["local_fixtures"]
MakeRig = Callable[..., AbstractContextManager[Rig]]


class Branch:
    """A branch of the proof's base, and whether it is what it was."""

    def __init__(self, made: Rig, at: ForkPoint | None = None) -> None:
        self.rig = made
        self.compute: LocalCompute = made.start("b", at or rewind_base(made))
        self.oracle = Oracle(self.compute)
        self.known = answers(self.compute)
        self.rewound()

    def sql(self, *statements: str, database: str = "app", indexes: bool = True) -> list[tuple[object, ...]]:
        """Run statements in a connection of their own; the rows of the last."""
        with connect(self.compute.server.endpoint(database), autocommit=True) as session:
            session.execute(f"set enable_seqscan = {'off' if indexes else 'on'}")
            cursor = session.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def rewound(self) -> str:
        """End the lease, which must put back everything; how it ended."""
        ending, reason = end_lease(self.compute)
        assert ending in ("clean", "rewind"), reason
        assert answers(self.compute) == self.known
        assert self.oracle.differences() == []
        self.compute.mark()
        return ending

    def replaced(self) -> str:
        """End the lease, which must not be reusable; why."""
        ending, reason = end_lease(self.compute)
        assert ending == "replace"
        return reason


@pytest.fixture(scope="module")
def made(shared_home: Path) -> Iterator[Rig]:
    """A provider on the first rung that works."""
    with rig(shared_home) as one:
        yield one


@pytest.fixture
def branch(made: Rig) -> Iterator[Branch]:
    """A branch of the proof's base."""
    branch = Branch(made)
    yield branch
    branch.compute.discard()


@pytest.fixture
def with_settings(shared_home: Path) -> Callable[..., AbstractContextManager[Branch]]:
    """To make a branch whose server has settings of the user's."""

    @contextmanager
    def make(*settings: str) -> Iterator[Branch]:
        with rig(shared_home, settings=settings) as made:
            yield Branch(made)

    return make


def test_every_rung(any_rung: Rig) -> None:
    """Rows, structure, a new database: undone on each storage rung."""
    branch = Branch(any_rung)
    branch.sql("delete from t0 where id < 500", "insert into hh select g, 'x' from generate_series(1, 99) g")
    branch.rewound()
    branch.sql("drop table t3", "create table fresh as select * from t0", "vacuum full pg_authid", "create database d")
    branch.rewound()
    branch.sql("update away set v = 'x'", database="other")
    branch.rewound()


def test_a_branch_of_a_branch(any_rung: Rig) -> None:
    """What a fork is put back to is the present of its parent, not the base."""
    parent = Branch(any_rung)
    parent.sql("delete from t0 where id % 2 = 0", "create table fresh as select * from t1", "vacuum full pg_proc")
    parent.sql("create index on fresh (b)", "drop table t5")
    child = Branch(any_rung, parent.compute.fork_point())
    child.sql("delete from fresh where id < 100", "update t0 set a = 'z' where id < 300")
    child.rewound()
    child.sql("drop table fresh", "create table fresh (x int)", "vacuum full pg_proc")
    child.rewound()
    assert child.sql("select count(*) from fresh") == [(3000,)]


@pytest.mark.parametrize(
    ("delete", "scan"),
    [
        ("delete from t0 where id between 100 and 900", "select count(*) from t0 where id between 1 and 1000"),
        ("delete from hh where id < 60", "select count(*) from hh where v = md5('{n}')"),
        ("delete from gg where id < 200", "select count(*) from gg where box && box '((1,1),(300,300))'"),
        ("delete from sp", "select count(*) from sp where p <@ box '((0,0),(50,50))'"),
    ],
)
def test_h1_dead_index_entries(branch: Branch, delete: str, scan: str) -> None:
    """Index scans mark what was deleted as dead, on pages that no change of rows names."""
    for _ in range(3):
        branch.sql(delete)
        branch.sql(*(scan.format(n=n) for n in range(1, 60)))
        branch.rewound()


def test_h2_spgist_metapage(branch: Branch) -> None:
    """SP-GiST remembers pages with room on its first page without saying so."""
    for size in (1, 700, 30, 1900, 5, 400, 1200, 80, 1500, 300, 10, 900):
        branch.sql(f"insert into sp select point(g * 7 % 1000, g * 13 % {size + 7}) from generate_series(1, {size}) g")
        branch.rewound()


@pytest.mark.parametrize("statement", ["insert into ul (v) values ('x')", "delete from ul", "select nextval('us')"])
def test_h3_unlogged(branch: Branch, statement: str) -> None:
    """The log tells nothing about unlogged rows and sequences."""
    branch.sql(statement)
    branch.rewound()


def test_h3_unlogged_that_is_too_large(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlogged relations that cost more to copy than a new branch lead to one."""
    monkeypatch.setattr("pytest_lakebranch.providers.local.rewind.rewinder.LARGEST_WHOLE", 1000)
    with rig(shared_home) as made:
        compute = made.start("b", rewind_base(made))
        assert end_lease(compute) == ("replace", "too much would have to be copied as a whole")


@pytest.mark.parametrize("statement", ["drop table big", "truncate big", "vacuum full big"])
def test_files_that_are_gone_and_too_large(branch: Branch, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """So do other files that would have to be copied from the beginning to the end."""
    monkeypatch.setattr("pytest_lakebranch.providers.local.rewind.rewinder.LARGEST_WHOLE", 200_000)
    branch.sql(statement)
    assert branch.replaced() == "too much would have to be copied as a whole"


@pytest.mark.parametrize("statement", ["drop table ul", "truncate ul restart identity", "alter table ul set logged"])
def test_h4_init_forks(branch: Branch, statement: str) -> None:
    """Unlogged relations get their init fork back."""
    branch.sql(statement)
    branch.rewound()


@pytest.mark.parametrize("statement", ["vacuum full pg_class", "reindex table pg_authid", "vacuum full pg_database"])
def test_h5_mapped_catalogs(branch: Branch, statement: str) -> None:
    """The maps of catalogs that have no entry of their own are put back, and logins work."""
    branch.sql(statement)
    branch.rewound()


def test_h6_rewritten_catalogs(branch: Branch) -> None:
    """A catalog that the base had rewritten is a catalog all the same: what the server remembers of it goes."""
    for _ in range(2):
        remembering = branch.compute.server.control.info.backend_pid
        branch.sql("comment on table t0 is 'x'")
        branch.rewound()
        assert branch.compute.server.control.info.backend_pid != remembering
    numbers = branch.sql("select pg_relation_filenode('pg_description')::int")
    assert numbers[0][0] >= 16384


def test_h7_prepared_transactions(with_settings: Callable[..., AbstractContextManager[Branch]]) -> None:
    """One that was committed is undone; one that was left is a reason for another branch."""
    with with_settings("max_prepared_transactions=3") as branch:
        branch.sql("begin", "delete from t0 where id = 1", "prepare transaction 'a'", "commit prepared 'a'")
        branch.rewound()
        branch.sql("begin", "lock table t0", "prepare transaction 'b'")
        assert branch.replaced() == "a prepared transaction was left"


@pytest.mark.parametrize(
    "statement", ["vacuum t0", "vacuum (freeze) t1", "select brin_desummarize_range('br_i', 0)", "analyze t0"]
)
def test_h8_without_transaction(branch: Branch, statement: str) -> None:
    """What needs no transaction number moves the log all the same."""
    branch.sql("delete from t0 where id < 200")
    branch.rewound()
    branch.sql(statement)
    branch.rewound()


def test_h9_configuration(branch: Branch) -> None:
    """ALTER SYSTEM moves nothing in the log."""
    branch.sql("alter system set work_mem = '7MB'")
    assert branch.replaced() == "configuration changed"


def test_h9_slots(with_settings: Callable[..., AbstractContextManager[Branch]]) -> None:
    """Nor does a replication slot, where the user's settings allow one."""
    with with_settings("max_replication_slots=2", "max_wal_senders=2") as branch:
        branch.sql("select pg_create_physical_replication_slot('s', true)", "delete from t0 where id = 1")
        assert branch.replaced() == "a replication slot was left"


@pytest.mark.parametrize(
    "statements",
    [
        ("select pg_truncate_visibility_map('t0')",),
        ("select pg_truncate_visibility_map('t0')", "vacuum t0"),
        ("vacuum (truncate true) vt",),
        ("vacuum (truncate true) vt", "insert into vt select g, repeat('z', 500) from generate_series(1, 1500) g"),
    ],
)
def test_h10_truncated_files(branch: Branch, statements: tuple[str, ...]) -> None:
    """Files that were cut, and grew again, are put back whole."""
    branch.sql(*statements)
    branch.rewound()


@pytest.mark.parametrize("how", ["", "strategy wal_log", "strategy file_copy", "template other"])
def test_h11_created_databases(branch: Branch, how: str) -> None:
    """A database that a test made is gone, with what is in it."""
    branch.sql(f"create database fresh {how}")
    branch.sql("create table t as select 1", database="fresh")
    branch.rewound()
    assert not [name for name in branch.sql("select datname from pg_database") if name == ("fresh",)]
    branch.sql(f"create database fresh {how}")
    branch.sql("drop database fresh")
    branch.rewound()


def test_h12_dropped_databases(branch: Branch) -> None:
    """A database of the base that was dropped is not brought back."""
    branch.sql("drop database app with (force)", database="postgres")
    assert branch.replaced() == "a database of the base was dropped"


def test_h12_dropped_and_made_with_the_same_number(branch: Branch) -> None:
    """Also when another has taken its place."""
    (number,) = branch.sql("select oid::int from pg_database where datname = 'other'")[0]
    branch.sql("drop database other", f"create database other oid {number} strategy file_copy")
    assert branch.replaced() == "a database of the base was dropped"


@pytest.mark.parametrize("keep", [True, False])
def test_h12_tablespaces(branch: Branch, tmp_path: Path, keep: bool) -> None:
    """A tablespace that was made, and one that is gone again, lead to another branch."""
    with connect(branch.compute.admin, autocommit=True) as session:
        session.execute("set allow_in_place_tablespaces = on")
        session.execute("create tablespace space location ''")
        session.execute("create table there tablespace space as select 1")
        if not keep:
            session.execute("drop table there")
            session.execute("drop tablespace space")
    assert re.match(r"a tablespace was|the log has records of a kind .*Tablespace", branch.replaced())


def test_h13_recycled_log(with_settings: Callable[..., AbstractContextManager[Branch]]) -> None:
    """What was written must be readable from beginning to end, or the branch is not used again."""
    with with_settings("wal_keep_size=0", "max_wal_size=2MB", "min_wal_size=2MB") as branch:
        for _ in range(3):
            branch.sql("create table bulk as select g, md5(g::text) from generate_series(1, 60000) g", "checkpoint")
            branch.sql("drop table bulk", "checkpoint")
        assert branch.replaced() == "the log since the lease began could not be read"


def test_h13_log_that_is_kept(branch: Branch) -> None:
    """With our settings a test may write and checkpoint as it likes."""
    for number in range(3):
        branch.sql(
            f"create table bulk{number} as select g, md5(g::text) from generate_series(1, 30000) g", "checkpoint"
        )
    branch.rewound()


def test_h14_crash(branch: Branch) -> None:
    """A server process that is killed takes the server with it, and nothing is replayed over what was undone."""
    branch.sql("delete from t0 where id < 100")
    branch.rewound()
    with connect(branch.compute.admin) as session:
        os.kill(session.info.backend_pid, signal.SIGKILL)
        assert branch.replaced().startswith("server died")


def test_h15_clients_that_return(branch: Branch) -> None:
    """Clients that connect again and again, also during the rewind, are not seen by the files."""
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            try:
                with connect(branch.compute.admin, autocommit=True) as session:
                    session.execute("insert into t0 (a, b) select 'x', gen_random_uuid()::text")
            except psycopg.Error:
                continue

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    endings = [branch.compute.rewind() for _ in range(15)]
    over.set()
    for thread in threads:
        thread.join()
    assert [ending for ending in endings if ending is not None] == []
    branch.rewound()


def test_h17_page_that_stays_in_use(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be dropped from memory is not passed over."""
    monkeypatch.setattr(buffers, "PATIENCE", 0.05)
    monkeypatch.setattr(buffers, "EVICT", "select 1, 0, pg_current_wal_insert_lsn()::text where ($1 || $2 || $3) <> ''")
    branch.sql("delete from ul", "delete from t0 where id = 1")
    assert branch.replaced() == "a page in memory stayed in use"


def test_h17_open_cursor(branch: Branch) -> None:
    """A cursor that holds a page when its client is ended is no obstacle."""
    session = connect(branch.compute.admin)
    session.execute("declare c cursor for select * from t0")
    session.execute("fetch 10 from c")
    branch.sql("update t0 set a = 'x' where id < 300")
    branch.rewound()
    session.close()


def test_h19_files_that_grew_in_silence(branch: Branch) -> None:
    """A COPY that fails leaves pages that the log does not name."""
    with pytest.raises(psycopg.DataError):
        branch.sql("copy br from program 'seq 1 15000 | sed \"s/$/\\t1/\"; echo x'")
    branch.rewound()


def test_h19_pages_of_transactions_that_may_not_write(branch: Branch) -> None:
    """A page is added for a row of a transaction that is refused then: no record of the log names the table."""
    with (
        connect(branch.compute.admin) as first,
        connect(branch.compute.admin) as second,
    ):
        for session, reads, writes in ((first, "t0", "t1"), (second, "t1", "t0")):
            session.execute("set transaction isolation level serializable")
            session.execute(f"select sum(id) from {reads}")
            session.execute(f"update {writes} set a = 'z' where id = 1")
        second.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            first.execute("insert into wide values (0, repeat('v', 5000))")
        first.rollback()
    assert branch.sql("select pg_relation_size('wide') / 8192") == [(6,)]
    branch.rewound()


def test_h20_relations_above_one_segment(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a block leads to its segment, and each segment is put back to its own size."""
    wanted: list[tuple[str, str, int, list[int] | None]] = []
    monkeypatch.setattr(files.Files, "_segment", lambda self, *args: wanted.append(args))
    knowledge = branch.oracle.sealed.knowledge
    assert knowledge is not None
    relation = next(iter(knowledge.manifest.relations))
    monkeypatch.setitem(knowledge.manifest.relations, relation, {"": [1 << 30, 1 << 30, 8192]})
    made = files.Files(-1, knowledge.files, knowledge.manifest)
    made.put_back_blocks(relation, [5, 131072, 131077, 262144, 999999])
    assert [blocks for *_, blocks in wanted] == [[0, 5], [0, 5], [0]]
    assert [name.rpartition(".")[2] for _, name, _, _ in wanted][1:] == ["1", "2"]


def test_h22_sealed_file_that_is_gone(shared_home: Path, tmp_path: Path) -> None:
    """A layer that was removed while in use does not turn into 'there was no such file'."""
    home = shared_home / "h22"
    with rig(home) as made:
        branch = Branch(made)
        sealed = branch.oracle.sealed
        knowledge = sealed.knowledge
        assert knowledge is not None
        knowledge.files.close()
        branch.sql("delete from t0 where id < 10")
        shutil.move(sealed.data / "base", tmp_path / "base")
        assert branch.replaced() == "a sealed file was removed"
        shutil.move(tmp_path / "base", sealed.data / "base")


def test_h22_sealed_file_that_was_cut(shared_home: Path) -> None:
    """Nor is a damaged one copied."""
    home = shared_home / "h22b"
    with rig(home) as made:
        branch = Branch(made)
        sealed = branch.oracle.sealed
        path = sealed.data / branch.sql("select pg_relation_filepath('t0')")[0][0]
        content = path.read_bytes()
        branch.sql("delete from t0 where id > 2000")
        path.write_bytes(content[:8192])
        assert branch.replaced() == "a sealed file was damaged"
        path.write_bytes(content)


def test_h27_pages_that_were_ordered_and_not_read(branch: Branch) -> None:
    """A scan that fails leaves numbers of pages in memory that nobody can see; a file that is cut may not have any."""
    branch.sql(*BROKEN_OFF.format(m=1).split(";\n", 1), indexes=False)
    assert branch.replaced() == "added pages did not stay in memory"


def test_h27_is_a_hazard(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check the next lease cannot add rows: else the check would cost branches for nothing."""
    monkeypatch.setattr(rewinder, "_check_added", lambda *args: None)
    branch.sql(*BROKEN_OFF.format(m=1).split(";\n", 1), indexes=False)
    assert end_lease(branch.compute)[0] == "rewind"
    branch.compute.mark()
    with pytest.raises(psycopg.errors.InternalError, match="should be empty but is not"):
        grow(branch.compute)


def test_h27_pages_that_stayed(branch: Branch) -> None:
    """What was added and is still in memory is undone, by rows and by structure, in scans that fail too."""
    added = "insert into vt select g, repeat('z', 500) from generate_series(1, 5000) g"
    scans = BROKEN_OFF.format(m=1).split(";\n", 1)[1]
    for more in ("select 1", "create table fresh (id int)"):
        branch.sql(added, scans, more, indexes=False)
        branch.rewound()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("shared_preload_libraries=auto_explain,pg_prewarm", "shared_preload_libraries=pg_prewarm cannot be rewound"),
        ("autovacuum=on", "autovacuum=on cannot be rewound"),
        ("wal_log_hints=off", "wal_log_hints=off cannot be rewound"),
        ("fsync=on", "fsync=on cannot be rewound"),
    ],
)
def test_settings_that_rule_rewinding_out(local_rig: MakeRig, setting: str, reason: str) -> None:
    """Settings of the user's with which nothing is proven lead to a replacement that names them."""
    with local_rig(settings=(setting,)) as made:
        compute = made.start("b", made.base("create table t as select 1 as x"))
        with connect(compute.endpoint) as session:
            session.execute("insert into t values (2)")
        assert end_lease(compute) == ("replace", reason)


@pytest.mark.parametrize(
    "settings",
    [
        ("full_page_writes=on",),
        ("wal_level=logical",),
        ("wal_compression=pglz",),
        ("shared_preload_libraries=pg_stat_statements, auto_explain", "pg_stat_statements.track=all"),
    ],
)
def test_settings_that_may_be_set(with_settings: Callable[..., AbstractContextManager[Branch]], settings) -> None:
    """Others change nothing."""
    with with_settings(*settings) as branch:
        branch.sql("delete from t0 where id < 300", "insert into t1 (a) values ('x')")
        branch.rewound()
        branch.sql("create table fresh as select * from t0", "drop table t4")
        branch.rewound()
        branch.sql("create extension if not exists pg_stat_statements", "select pg_sleep(0)")
        branch.rewound()


def test_files_that_are_not_postgresqls(local_rig: MakeRig) -> None:
    """What an extension keeps beside a database's relations is in no log: such a base is not rewound."""
    base = """
    create table t as select 1 as x;
    select lo_from_bytea(42, 'mine');
    do $$ begin perform lo_export(42, 'base/' || oid || '/mine.dat')
      from pg_database where datname = current_database(); end $$;
    """
    with local_rig() as made:
        compute = made.start("b", made.base(base))
        with connect(compute.endpoint) as session:
            session.execute("insert into t values (2)")
        ending, reason = end_lease(compute)
        assert ending == "replace"
        assert re.fullmatch(r"base/\d+/mine\.dat, not made by PostgreSQL itself, cannot be rewound", reason)


def test_postgresql_15(system_15: Rig) -> None:
    """Older versions say so."""
    compute = system_15.start()
    with connect(compute.endpoint) as session:
        session.execute("insert into item values (0, 'x')")
    assert end_lease(compute) == ("replace", "PostgreSQL 15 cannot be rewound (18 can)")


def test_login_trigger_of_the_base(local_rig: MakeRig) -> None:
    """What we ask of a database when its first branch starts wakes no trigger of the user's."""
    base = """
    create table seen (who text);
    create function note() returns event_trigger language plpgsql
      as 'begin insert into seen values (session_user); end';
    create event trigger note on login execute function note();
    alter event trigger note enable always;
    """
    with local_rig() as made:
        compute = made.start("b", made.base(base))
        assert end_lease(compute) == ("clean", "")


def test_our_extensions_are_not_in_the_users_database(branch: Branch) -> None:
    """Neither in it, nor in what new databases are made of."""
    found = branch.sql("select extname from pg_extension order by 1")
    assert found == [("pg_visibility",), ("plpgsql",)]
    assert branch.sql("select extname from pg_extension", database="template1") == [("plpgsql",)]


def test_kinds_of_records_that_are_not_known(branch: Branch) -> None:
    """A kind that was never heard of is a reason, whatever else was written."""
    with pytest.raises(Exception, match="of a kind that cannot be undone"):
        wal._check(frozenset({"Heap/INSERT", "Custom/THING"}), {1663})


def test_spare_that_was_written_to(branch: Branch) -> None:
    """What a stray client wrote while nobody had the branch is undone before the next lease begins."""
    branch.sql("delete from t0", "create table stray (x int)")
    branch.compute.mark()
    assert answers(branch.compute) == branch.known
    branch.sql("insert into ul (v) values ('stray')")
    branch.compute.mark()
    assert answers(branch.compute) == branch.known
    branch.sql("alter system set work_mem = '1MB'")
    with pytest.raises(BranchError, match="configuration changed"):
        branch.compute.mark()


def test_client_that_waits_to_be_accepted(branch: Branch) -> None:
    """Who connected in time, but was not yet served, does not turn up in the next lease."""
    server = branch.compute.server
    os.kill(server.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(server.sockets / SOCKET_NAME))
        timer = threading.Timer(0.05, os.kill, (server.pid, signal.SIGCONT))
        timer.start()
        branch.compute.end_connections()
        timer.join()
        late.settimeout(5)
        assert late.recv(1) in (b"", b"E")
