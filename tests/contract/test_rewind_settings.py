"""Undoing in place, and what a user may have set or put into the base."""

from __future__ import annotations

import re

import pytest
from local_rigs import Rig
from rewind_rigs import Branch, MakeBranch, MakeRig, end_lease

from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.rewind import wal

pytest_plugins = ["local_fixtures", "rewind_fixtures"]


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
def test_settings_that_may_be_set(with_settings: MakeBranch, settings) -> None:
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
