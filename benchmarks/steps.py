"""Migrations: finding a base among layers, adding one, a Django project, a dump."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, median, milliseconds, provider, run_pytest, workplace
from pytest_lakebranch.branches.base import Bases
from pytest_lakebranch.building import Builder
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.postgres.connect import conninfo
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.providers.local.provider import LocalProvider
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.dump import jobs
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.steps.notes import Notes
from tests.contract.lines import Line
from tests.contract.migration_projects import alembic_project, alembic_revision, django_migration, django_project
from tests.contract.step_servers import running

MIGRATIONS = 500
DJANGO_MIGRATIONS = 200
ROUNDS = 7
DUMP_ROUNDS = 3
DUMP_ROWS = 3_000_000
FAST = Path("/dev/shm")
Write = Callable[[Path, range], None]
Tool = Callable[[Path, Endpoint, int], None]


def figures() -> Iterator[Figure]:
    """All of this module."""
    yield from incremental("sql", "sql:db", folder_of_sql, psql)
    yield from incremental("alembic", "alembic:alembic.ini", project_of_alembic, alembic)
    yield from django()
    yield from dump()
    yield from copy()


def ensure(home: Path, root: Path, entry: str) -> tuple[float, str]:
    """Milliseconds until the base is there, as one worker of a new run has it, and its key."""
    with provider(home, "auto") as made:
        client: Any = Line(Bases(made, name=lambda: "base", rebuild=False))
        began = time.perf_counter()
        steps = [parse(entry, root=root, notes=Notes(home / "notes"))]
        key = Builder(client, Progress(None), root, None).ensure(steps)
        return (time.perf_counter() - began) * 1e3, key


def incremental(name: str, entry: str, write: Write, tool: Tool) -> Iterator[Figure]:
    """The second run, and one migration more, over what the tool itself takes for it."""
    with workplace(FAST) as home, workplace() as root:
        write(root, range(1, MIGRATIONS + 1))
        milliseconds_taken, key = ensure(home, root, entry)
        yield Figure(f"{name}: first build of {MIGRATIONS} migrations", milliseconds_taken / 1e3, "s")
        time.sleep(3)  # notes are trusted without reading files once these are older than two seconds
        ensure(home, root, entry)
        found = median([ensure(home, root, entry)[0] for _ in range(ROUNDS)])
        yield Figure(f"{name}: finding the base of {MIGRATIONS} migrations", found, "ms", 50)
        ours, own = [], []
        for number in range(MIGRATIONS + 1, MIGRATIONS + 1 + ROUNDS):
            write(root, range(number, number + 1))
            with provider(home, "auto") as made:
                compute = made.build("own", made.cached(key))
                own.append(milliseconds(lambda at=compute.endpoint, n=number: tool(root, at, n)))
                compute.discard(disposable=True)
            taken, key = ensure(home, root, entry)
            ours.append(taken)
        yield Figure(f"{name}: one migration more, the tool by itself", median(own), "ms")
        yield Figure(f"{name}: one migration more, over the tool by itself", median(ours) - median(own), "ms", 300)


def psql(root: Path, at: Endpoint, number: int) -> None:
    """What a person would run for one file."""
    file = root / "db" / f"V{number}__step.sql"
    subprocess.run([find("auto").program("psql"), "-qd", conninfo(at), "-f", file], check=True)


def alembic(root: Path, at: Endpoint, _number: int) -> None:
    """``alembic upgrade head``, whose ini leads to the branch."""
    where = f"postgresql+psycopg://{at.user}@/{at.dbname}?host={at.host}"
    ini = (root / "alembic.ini").read_text()
    (root / "own.ini").write_text(ini.replace("postgresql+psycopg://nobody@nowhere.invalid/nothing", where))
    command = [sys.executable, "-m", "alembic", "-c", "own.ini", "upgrade", "head"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


def folder_of_sql(root: Path, numbers: range) -> None:
    """Migrations as files of SQL."""
    (root / "db").mkdir(exist_ok=True)
    for number in numbers:
        (root / "db" / f"V{number}__step.sql").write_text(f"CREATE TABLE t{number} (id int PRIMARY KEY, name text);\n")


def project_of_alembic(root: Path, numbers: range) -> None:
    """Migrations of Alembic."""
    versions = root / "migrations" / "versions"
    if not versions.exists():
        alembic_project(root)
    for number in numbers:
        down = f"r{number - 1}" if number > 1 else None
        alembic_revision(versions, f"r{number}", down, f"CREATE TABLE t{number} (id int PRIMARY KEY, name text)")


def django() -> Iterator[Figure]:
    """A project with 200 migrations under four workers: the first run against ``migrate``, and the second run."""
    with workplace(FAST) as home, workplace() as root:
        shop = django_project(root, "site_c", "shop") / "shop"
        for number in range(1, DJANGO_MIGRATIONS + 1):
            before = [("shop", f"{number - 1:04}_step")] if number > 1 else []
            django_migration(
                shop, f"{number:04}_step", before, f"CREATE TABLE t{number} (id int PRIMARY KEY, name text)"
            )
        (root / "pytest.ini").write_text(
            "[pytest]\nlakebranch_base = django:site_c.settings\nlakebranch_env =\n    DB_HOST={host}\n"
        )
        (root / "test_it.py").write_text(
            "import pytest\n@pytest.mark.parametrize('n', range(4))\ndef test_it(lakebranch_conn, n): ...\n"
        )
        once = migrate(root)
        yield Figure(f"django: migrate of {DJANGO_MIGRATIONS} migrations by itself", once, "s")
        empty_project(root / "empty")
        idle = min(seconds(root / "empty", home) for _ in range(4))
        first = seconds(root, home)
        yield Figure("django: first run with 4 workers, over an empty base and migrate", first - idle - once, "s", 2)
        time.sleep(3)
        again = min(seconds(root, home) for _ in range(3))
        yield Figure("django: second run with 4 workers, over one with an empty base", again - idle, "s", 1)


def seconds(project: Path, home: Path) -> float:
    """How long a run with four workers takes."""
    return milliseconds(lambda: run_pytest(project, "-q", "-n", "4", "test_it.py", home=home)) / 1e3


def empty_project(root: Path) -> None:
    """The same tests on a base without steps."""
    root.mkdir()
    (root / "pytest.ini").write_text("[pytest]\nlakebranch_env =\n    DB_HOST={host}\n")
    (root / "test_it.py").write_text((root.parent / "test_it.py").read_text())


def migrate(root: Path) -> float:
    """Seconds that ``django-admin migrate`` takes on an empty branch."""
    code = (
        "import django, sys; from django.core.management import call_command; from django.db import connections;"
        "django.setup(); connections.settings['default'].update(HOST=sys.argv[1], NAME='app', USER='postgres');"
        "call_command('migrate', verbosity=0)"
    )
    with workplace(FAST) as home, provider(home, "auto") as made:
        compute = made.build("migrate", None)
        command = [sys.executable, "-c", code, compute.endpoint.host]
        environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_c.settings"}
        return milliseconds(lambda: subprocess.run(command, cwd=root, check=True, env=environ)) / 1e3


def dump() -> Iterator[Figure]:
    """A custom dump of a database of about a gigabyte: the step against pg_restore itself, with as many jobs."""
    with workplace(FAST) as home, workplace() as root, provider(home, "auto") as made:
        archive = root / "big.dump"
        dump_of(made, archive)
        yield Figure("dump: size of the archive", archive.stat().st_size / 1e6, "MB")
        step = parse("dump:big.dump", root=root)
        command = [find("auto").program("pg_restore"), f"-j{jobs()}", archive]
        plain, ours = [], []
        for _ in range(DUMP_ROUNDS):  # in turn: what else the machine does changes slowly
            with restored(made, root) as place:
                target = [*command, "-d", conninfo(place.endpoint)]
                plain.append(milliseconds(lambda words=target: subprocess.run(words, check=True)))
            with restored(made, root) as place:
                ours.append(milliseconds(lambda at=place: step.apply(at)))
        ratio = median(ours) / median(plain)
        yield Figure(f"dump: restored by the step, in parts of pg_restore -j{jobs()}", ratio, "x", 1.05)


def dump_of(made: LocalProvider, archive: Path) -> None:
    """Write the dump, compressed as pg_dump does by itself."""
    compute = made.build("source", None)
    where = conninfo(compute.endpoint)
    for number in range(4):
        fill = (
            f"CREATE TABLE big{number} AS SELECT n AS id, md5(n::text) AS a, md5((n + 1)::text) AS b, now() AS at "
            f"FROM generate_series(1, {DUMP_ROWS}) n; ALTER TABLE big{number} ADD PRIMARY KEY (id);"
        )
        subprocess.run([find("auto").program("psql"), "-qd", where, "-c", fill], check=True)
    subprocess.run([find("auto").program("pg_dump"), "-Fc", "-f", archive, "-d", where], check=True)
    compute.discard(disposable=True)


@contextmanager
def restored(made: LocalProvider, root: Path) -> Iterator[Workplace]:
    """An empty database of its own to restore into."""
    target = made.build("target", None)
    try:
        yield Workplace(target.endpoint, find("auto"), root)
    finally:
        target.discard(disposable=True)


def copy() -> Iterator[Figure]:
    """A running server's database of about a gigabyte, to the sealed base: its files, and by dump."""
    with workplace(FAST) as home, workplace() as root, running("embedded", max_wal_size="4GB") as original:
        (root / "nothing.sql").write_text("SELECT 1;\n")
        ensure(home, root, "sql:nothing.sql")  # makes what all bases begin with
        with original.connect() as conn:
            for number in range(4):
                conn.execute(
                    f"CREATE TABLE big{number} AS SELECT n AS id, md5(n::text) AS a, md5((n + 1)::text) AS b, "
                    f"now() AS at FROM generate_series(1, 2000000) n; ALTER TABLE big{number} ADD PRIMARY KEY (id)"
                )
            conn.execute("VACUUM")
            size = conn.execute("SELECT pg_database_size('postgres')").fetchone()
        os.environ["COPIED_URL"] = f"postgresql://postgres@/postgres?host={original.sockets}"
        yield Figure("postgres: size of the database", (size or [0])[0] / 1e6, "MB")
        files, _ = ensure(home, root, "postgres:COPIED_URL copy=physical")
        dumped, _ = ensure(home, root, "postgres:COPIED_URL copy=dump")
        del os.environ["COPIED_URL"]
        yield Figure("postgres: base from its files, sealed", files / 1e3, "s")
        yield Figure("postgres: base from its files, in parts of that by dump", files / dumped, "x", 1)
