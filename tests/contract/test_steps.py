"""What holds for every kind of step, on each PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from migration_projects import alembic_project, alembic_revision, django_migration, django_project
from step_servers import Server, dump, rows

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Step, Workplace
from pytest_lakebranch.steps.kinds import Entry, parse

pytest_plugins = ["step_fixtures"]

TABLE = "CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);\n"
ROWS = "INSERT INTO item VALUES (1, 'bolt'), (2, 'nut');\n"
SEED = f'''
def load(conn):
    conn.execute("{TABLE.strip()}")
    conn.execute("{ROWS.strip()}")
'''


@dataclass(frozen=True)
class Case:
    """One step as a user would write it, the file it comes from, and how its failure locates it."""

    entry: Entry
    file: Path
    where: str


def sql_file(root: Path, server: Server) -> Case:
    """A file of SQL."""
    file = root / "schema.sql"
    file.write_text(TABLE + ROWS)
    return Case("sql:schema.sql", file, "schema.sql:1")


def sql_folder(root: Path, server: Server) -> Case:
    """A folder of SQL files whose order matters."""
    (root / "db").mkdir()
    (root / "db" / "020_rows.sql").write_text(ROWS)
    file = root / "db" / "010_table.sql"
    file.write_text(TABLE)
    return Case("sql:db", file, "db/010_table.sql:1")


def python_module(root: Path, server: Server) -> Case:
    """A callable in a module; its name differs in each test because a process imports a module once."""
    name = f"seed_{abs(hash(root))}"
    (root / f"{name}.py").write_text(SEED)
    return Case(f"python:{name}:load", root / f"{name}.py", f"{name}.py:3")


def python_callable(root: Path, server: Server) -> Case:
    """A callable as a hook in conftest.py supplies it."""
    file = root / "conftest.py"
    file.write_text(SEED)
    spec = importlib.util.spec_from_file_location("their_conftest", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Case(module.load, file, "conftest.py:3")


def alembic(root: Path, server: Server) -> Case:
    """A revision of an Alembic project."""
    versions = alembic_project(root)
    file = alembic_revision(versions, "a1", None, TABLE.strip(), ROWS.strip())
    return Case("alembic:alembic.ini", file, "migrations/versions/a1_change.py:9")


def django(root: Path, server: Server) -> Case:
    """A migration of a Django project."""
    folder = django_project(root, "site_b", "shop")
    file = django_migration(folder / "shop", "0001_initial", [], TABLE + ROWS)
    return Case("django:site_b.settings", file, "site_b/shop/migrations/0001_initial.py")


def command(root: Path, server: Server) -> Case:
    """A program that takes the URL from its environment."""
    file = root / "migrate.sh"
    file.write_text(
        f"#!/bin/sh\nset -e\nexec 2>&1\npsql -qe -v ON_ERROR_STOP=1 $DATABASE_URL <<EOF\n{TABLE}{ROWS}EOF\n"
    )
    file.chmod(0o755)
    return Case("command:./migrate.sh inputs=migrate.sh", file, "status 3")


def postgres(root: Path, server: Server) -> Case:
    """A copy of a running server's database; what is in that is no file, so that only declared ones count."""
    source = server.place(root).endpoint
    with connect(source) as conn:
        conn.execute(TABLE + ROWS)
    os.environ["PROD_URL"] = f"postgresql://postgres@/{source.dbname}?host={source.host}&port=5432"
    file = root / "release"
    file.write_text("1")
    return Case("postgres:PROD_URL copy=dump inputs=release", file, "PROD_URL")


def dump_of(style: str) -> Callable[[Path, Server], Case]:
    """A dump in one of pg_dump's formats; its name tells nothing."""

    def make(root: Path, server: Server) -> Case:
        path = dump(server, root / "backup", style, TABLE + ROWS)
        return Case("dump:backup", path / "toc.dat" if path.is_dir() else path, "backup")

    return make


KINDS: dict[str, Callable[[Path, Server], Case]] = {
    "sql file": sql_file,
    "sql folder": sql_folder,
    "dump plain": dump_of("plain"),
    "dump custom": dump_of("custom"),
    "dump directory": dump_of("directory"),
    "dump tar": dump_of("tar"),
    "alembic": alembic,
    "django": django,
    "command": command,
    "postgres": postgres,
    "python module": python_module,
    "python callable": python_callable,
}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Each kind of step in turn."""
    monkeypatch.setenv("PROD_URL", "")  # so that it is put back as it was
    return KINDS[request.param](tmp_path, server)


@pytest.fixture
def step(case: Case, tmp_path: Path) -> Step:
    """The step of the case."""
    return parse(case.entry, root=tmp_path)


def test_label_is_what_the_user_wrote(case: Case, step: Step) -> None:
    """Messages name a step in the user's own words; a callable by its module and name."""
    assert step.label == (case.entry if isinstance(case.entry, str) else "python:their_conftest:load")


def test_fingerprint_is_of_content(case: Case, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file changes the fingerprint; its time, the working directory and parsing again do not."""
    before = step.fingerprint()
    os.utime(case.file, (1, 1))
    monkeypatch.chdir("/")
    assert parse(case.entry, root=tmp_path).fingerprint() == before
    with case.file.open("ab") as file:
        file.write(b"\n")
    assert step.fingerprint() != before


def test_apply_fills_the_database(step: Step, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step leads to the workplace's database whatever PG* says, and reports how much it did."""
    for name, value in {"PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGOPTIONS": "-c search_path=pg_catalog"}.items():
        monkeypatch.setenv(name, value)
    done = step.apply(place)
    assert rows(place, "SELECT * FROM item ORDER BY id") == [(1, "bolt"), (2, "nut")]
    assert re.fullmatch(r"(2 files, )?[\d.]+ (bytes|kB)(, by dump: copy=dump)?|done|[1-9][0-9]* migrations?", done)


def test_failure_tells_where_what_and_why(case: Case, step: Step, place: Workplace, server: Server) -> None:
    """A failing step names its file and line, the statement and the server's message, and leaves no connection."""
    with connect(place.endpoint) as conn:
        conn.execute("CREATE TABLE item ()")
    with pytest.raises(BaseError) as caught:
        step.apply(place)
    message = str(caught.value)
    assert re.match(rf"{re.escape(step.label)} failed (at|with) {re.escape(case.where)}", message)
    assert 'relation "item" already exists' in message
    assert re.search(r"\n    CREATE TABLE (public\.)?item \(", message)
    assert server.clients_of(place) == 0


def test_nothing_is_printed(step: Step, place: Workplace, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither a step nor the programs it runs write to the terminal."""
    step.apply(place)
    assert capfd.readouterr() == ("", "")


@pytest.fixture(autouse=True)
def _forget_modules() -> object:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("seed_"):
            del sys.modules[name]
