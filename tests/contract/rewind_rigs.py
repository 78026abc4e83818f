"""What the proof of rewinding is made of: a base with everything in it, an oracle, and questions with known answers."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from local_rigs import Rig

from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.storage.base import Sealed

KEY = "rewind00" * 8
ROWS = """
create table {t} (id serial primary key, a text, b text unique);
insert into {t} (a, b) select repeat(md5(g::text), 8), md5(g::text) from generate_series(1, {n}) g;
"""
BASE = (
    "".join(ROWS.format(t=f"t{i}", n=3000 if i < 3 else 0) for i in range(8))
    + """
create table sp (p point);
insert into sp select point(g % 97, g / 97) from generate_series(1, 1500) g;
create index sp_i on sp using spgist (p);
create table hh (id int, v text);
insert into hh select g, md5(g::text) from generate_series(1, 1500) g;
create index hh_i on hh using hash (v);
create table gg (id int, words text[], box box);
insert into gg select g, array[md5(g::text), 'w' || g % 10], box(point(g, g), point(g + 1, g + 1))
  from generate_series(1, 800) g;
create index gg_gin on gg using gin (words);
create index gg_gist on gg using gist (box);
create table br (id int, at int);
insert into br select g, g from generate_series(1, 20000) g;
create index br_i on br using brin (at) with (pages_per_range = 4);
create unlogged table ul (id serial primary key, v text);
insert into ul (v) select 'a' from generate_series(1, 100);
create unlogged sequence us;
create sequence cached cache 20;
create table identified (id int generated always as identity primary key, v text);
insert into identified (v) select 'v' from generate_series(1, 50);
create table vt (id int, pad text) with (vacuum_truncate = off);
insert into vt select g, repeat('x', 500) from generate_series(1, 2000) g;
delete from vt where id > 500;
create table wide (id int, pad text);
alter table wide alter pad set storage plain;
insert into wide select g, repeat('w', 5000) from generate_series(1, 5) g;
create table part (id int, v text) partition by range (id);
create table part1 partition of part for values from (0) to (500);
create table part2 partition of part for values from (500) to (1000);
insert into part select g, g::text from generate_series(1, 999) g;
create index on part (v);
create table big (id int primary key, doc text);
insert into big select g, string_agg(md5((g * 100 + n)::text), '') from generate_series(1, 30) g,
  generate_series(1, 200) n group by g;
create table child (id int primary key, parent int references t0 on delete cascade);
insert into child select g, g from generate_series(1, 200) g;
create materialized view mv as select count(*) from t0;
select lo_from_bytea(424242, 'large');
create extension pg_visibility;
"""
)
OTHER = "create table away (id int primary key, v text); insert into away select g, 'v' from generate_series(1, 200) g"
REWRITE = "vacuum full pg_description"
"""A catalog with a file number that is not a catalog's by itself (H6)."""
QUESTIONS = (
    *(f"select count(*), sum(id), count(b) from t{i} where id > 0" for i in range(8)),
    *(f"select count(*) from t{i} where b > '8'" for i in range(3)),
    "select count(*) from sp where p <@ box '((0,0),(50,10))'",
    "select count(*) from hh where v = any(select md5(g::text) from generate_series(1, 60) g)",
    "select count(*) from gg where words @> array['w3']",
    "select count(*) from gg where box && box '((100,100),(200,200))'",
    "select count(*), sum(at) from br where at between 5000 and 15000",
    "select count(*), sum(id) from ul where id > 0",
    "select count(*) from identified where id > 0",
    "select count(*) from vt where id > 0",
    "select count(*), pg_relation_size('wide') from wide",
    "select count(*) from part where v > '5'",
    "select sum(length(doc)) from big where id > 0",
    "select count(*) from child where id > 0",
    "select count from mv",
    "select convert_from(lo_get(424242), 'UTF8')",
    "select count(*) from pg_class",
    "select count(*) from pg_description",
    "select count(*), sum(length(rolname)) from pg_roles",
    "select string_agg(datname, ' ' order by datname) from pg_database",
    "select count(*) from pg_db_role_setting",
    "select count(*) from pg_replication_slots",
    "select count(*) from pg_prepared_xacts",
    "select count(*) from pg_tablespace",
    "select count(*) from pg_replication_origin",
    "select string_agg(name || setting, ' ' order by name) from pg_settings "
    "where source not in ('default', 'client', 'session') and setting !~ '/'",
)
CONFIGURATION = ("postgresql.auto.conf", "postgresql.conf", "pg_hba.conf", "pg_ident.conf")
SKIPPED = ("pg_control", "pg_internal.init", "lakebranch.init")


def rewind_base(rig: Rig) -> ForkPoint:
    """The base of the proof: all index types, unlogged relations, partitions, TOAST, a second database."""
    at = rig.provider.cached(KEY)
    if at is not None:
        return at
    with rig.provider.building(KEY):
        compute = rig.provider.build("base", None)
        with connect(compute.endpoint, autocommit=True) as session:
            session.execute(BASE)
            session.execute(REWRITE)
            session.execute("create database other")
        with connect(compute.server.endpoint("other"), autocommit=True) as session:
            session.execute(OTHER)
        return rig.provider.seal(compute, KEY)


@dataclass
class Oracle:
    """Compares the files of a branch with the sealed ones, byte by byte.

    A file that was compared and has not been written to since (inode, size, time of change) is not read again.
    """

    compute: LocalCompute
    same: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def sealed(self) -> Sealed:
        """What the branch was made from."""
        assert self.compute.at is not None
        return self.compute.at

    def differences(self) -> list[str]:
        """Names of files of databases and of configuration that are not what they were when they were sealed."""
        with connect(self.compute.server.endpoint("postgres"), autocommit=True) as session:
            session.execute("checkpoint")
            session.execute("select pg_buffercache_evict_all()")
        found = []
        for folder in ("global", "base", "pg_tblspc", "pg_replslot", "pg_twophase"):
            roots = [Path(self.sealed.data, folder), Path(self.compute.data, folder)]
            names = set().union(*(_files(root) for root in roots))
            found += [f"{folder}/{name}" for name in sorted(names) if not self._is_same(*(r / name for r in roots))]
        roots = [self.sealed.data, self.compute.data]
        return found + [name for name in CONFIGURATION if not self._is_same(*(root / name for root in roots))]

    def _is_same(self, sealed: Path, branch: Path) -> bool:
        try:
            seen = branch.stat()
            now = (seen.st_ino, seen.st_size, seen.st_ctime_ns)
            if self.same.get(str(branch)) == now:
                return True
            equal = sealed.read_bytes() == branch.read_bytes()
        except FileNotFoundError:
            return False
        if equal:
            self.same[str(branch)] = now
        return equal


def _files(root: Path) -> Iterator[str]:
    for directory, _, names in os.walk(root):
        inside = os.path.relpath(directory, root)
        yield from (os.path.normpath(f"{inside}/{name}") for name in names if name not in SKIPPED)


def answers(compute: LocalCompute) -> list[str]:
    """The answers to all questions, through indexes wherever there is one."""
    with connect(compute.server.endpoint("app"), autocommit=True) as session:
        session.execute("set enable_seqscan = off; set enable_sort = off")
        return [_answer(session, question) for question in QUESTIONS]


def _answer(session: psycopg.Connection[tuple[object, ...]], question: str) -> str:
    try:
        return f"{question}: {session.execute(question).fetchall()}"
    except psycopg.Error as error:
        return f"{question}: {error}"


def grow(compute: LocalCompute) -> None:
    """Add pages to a table, a few at a time; raises AssertionError when there are other rows than it had and got."""
    with connect(compute.server.endpoint("app"), autocommit=True) as session:
        for _ in range(20):
            session.execute("insert into vt select 0, repeat('z', 900) from generate_series(1, 150)")
        found = session.execute("select count(*) from vt").fetchone()
    assert found == (500 + 20 * 150,)


@contextmanager
def returning(compute: LocalCompute) -> Iterator[None]:
    """Three clients that write and connect again, whatever happens to them, until the block ends."""
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            try:
                with connect(compute.admin, autocommit=True) as session:
                    session.execute("insert into t0 (a, b) select 'x', gen_random_uuid()::text")
            except psycopg.Error:
                continue

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def end_lease(compute: LocalCompute) -> tuple[str, str]:
    """End a lease as the engine does: (how it ended, why)."""
    compute.end_connections()
    change = compute.change()
    if change is None:
        return "clean", ""
    refusal = compute.rewind()
    return ("rewind", change) if refusal is None else ("replace", refusal)


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


MakeRig = Callable[..., AbstractContextManager[Rig]]
MakeBranch = Callable[..., AbstractContextManager[Branch]]
