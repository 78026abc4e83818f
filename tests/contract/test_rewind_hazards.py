"""Each way in which undoing in place could go wrong, by its number in the list of hazards (H1 …): tried, and undone.

What cannot be undone must end in a replacement, with this reason. Deaths, clients and damage are in test_rewind_faults,
files that grow in test_rewind_growth, what the user may set in test_rewind_settings.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from local_rigs import Rig, rig
from rewind_rigs import Branch, MakeBranch, end_lease, rewind_base

from pytest_lakebranch.postgres.connect import connect

pytest_plugins = ["local_fixtures", "rewind_fixtures"]


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


def test_h7_prepared_transactions(with_settings: MakeBranch) -> None:
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


def test_h9_slots(with_settings: MakeBranch) -> None:
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


def test_h13_recycled_log(with_settings: MakeBranch) -> None:
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
