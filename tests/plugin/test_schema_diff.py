"""Schema diffs where users meet them: of a branch, on the command line, of a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.plugin.cli_rigs import Command
from tests.plugin.conftest import Project

BASE = "CREATE TABLE item (id int PRIMARY KEY, code text);\n"
MIGRATION = "ALTER TABLE item ADD price numeric; ALTER TABLE item DROP code;\n"
SECRET = "s3cret-of-the-test"


@pytest.fixture
def migrated(project: Project) -> Project:
    """A project whose base is a file and a folder of migrations."""
    project.write(base_dot_sql=BASE)
    (project.path / "migrations").mkdir()
    (project.path / "migrations/V1__price.sql").write_text(MIGRATION)
    project.ini(lakebranch_base=["sql:base.sql", "sql:migrations"])
    return project


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, project: Project) -> Command:
    """The command, in the project's directory."""
    monkeypatch.chdir(project.path)
    return Command(capfd)


def test_diff_of_a_branch(migrated: Project) -> None:
    """A branch tells how its schema differs: from the base, from the branch it was forked from, from another."""
    migrated.write(
        test_it="""
        import pytest

        def test_own(lakebranch):
            assert not lakebranch.diff()
            with lakebranch.connect() as conn:
                conn.execute("CREATE TABLE extra (a int)")
                assert not lakebranch.diff(), "it is not committed"
            assert lakebranch.diff().only(added=["table extra"])
            with lakebranch.fork() as child:
                assert not child.diff()
                with child.connect() as conn:
                    conn.execute("DROP TABLE extra")
                assert child.diff().only(removed=["table extra"])
                assert not child.diff(child)
            assert child.ended

        def test_worker(lakebranch_worker, lakebranch):
            with lakebranch_worker.connect() as conn:
                conn.execute("CREATE TABLE kept (a int)")
            assert lakebranch.diff().only(removed=["table kept"])
            assert lakebranch_worker.diff().only(added=["table kept"])

        def test_failure(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("ALTER TABLE item ALTER price TYPE integer")
            lakebranch.diff().only(added=["table extra"])
        """
    )
    result = migrated.run()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["E*AssertionError: the schema differs otherwise:", "E*not expected: ~ column public.item.price"]
    )
    result.stdout.fnmatch_lines(["E*missing:      + table extra", "E*DESTRUCTIVE: not every numeric is a integer"])


def test_diff_of_a_run(migrated: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run writes how its base differs from the base before its migrations, in every format, and to GitHub."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(migrated.path / "summary"))
    (migrated.path / "summary").write_text("before\n")
    migrated.write(test_it="def test_it(lakebranch): pass")
    files = [f"--lakebranch-schema-diff=out/diff.{kind}" for kind in ("md", "txt", "json")]
    result = migrated.spawn("-n", "2", *files)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["lakebranch schema diff from source: 1 added, 1 removed; 1 destructive (*diff.md, *"])
    written = json.loads((migrated.path / "out/diff.json").read_text())
    assert [one["name"] for one in written["added"]] == ["public.item.price"]
    assert [one["destructive"] for one in written["removed"]] == [True]
    assert "+ column public.item.price  numeric\n" in (migrated.path / "out/diff.txt").read_text()
    markdown = (migrated.path / "out/diff.md").read_text()
    assert (migrated.path / "summary").read_text() == f"before\n{markdown}\n"


def test_a_run_without_tests_writes_it_too(migrated: Project) -> None:
    """Whoever collects the file finds it, also when no test asked for a branch."""
    migrated.write(test_it="def test_it(): pass")
    migrated.run("--lakebranch-schema-diff=diff.txt").assert_outcomes(passed=1)
    assert "column public.item.price" in (migrated.path / "diff.txt").read_text()


def test_diff_that_cannot_be_written(migrated: Project) -> None:
    """The run passes, and its summary says why there is no diff."""
    migrated.write(test_it="def test_it(): pass", block="")
    result = migrated.run("--lakebranch-schema-diff=block.py/diff.txt")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["lakebranch schema diff: not written: *"])
    result = migrated.run("--lakebranch-schema-diff=diff.txt", "--lakebranch-schema-diff-from=gone.json")
    result.stdout.fnmatch_lines(["lakebranch schema diff: not written: *gone.json cannot be read: No such file*"])
    result = migrated.run("--lakebranch-schema-diff=diff.doc")
    result.stderr.fnmatch_lines(["*lakebranch_schema_diff: 'diff.doc' ends in none of the known suffixes .md, .txt, *"])


def git(project: Project, *words: str) -> None:
    """Run git as somebody."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *words], cwd=project.path, check=True, capture_output=True)


@pytest.mark.soak
def test_diff_from_another_revision(migrated: Project, command: Command) -> None:
    """A pull request that adds a migration is compared with the base as the main branch makes it."""
    migrated.write(iniconfig="raise SystemExit('a file of the project hides a module')")
    (migrated.path / ".gitattributes").write_text("migrations export-ignore\n")  # which is for releases
    git(migrated, "init")
    git(migrated, "add", ".")
    git(migrated, "commit", "-m", "one")
    (migrated.path / "migrations/V2__note.sql").write_text("ALTER TABLE item ADD note text;")
    migrated.write(test_it="def test_it(lakebranch): pass")
    result = migrated.run("--lakebranch-schema-diff=diff.txt", "--lakebranch-schema-diff-from=git:main")
    result.stdout.fnmatch_lines(["lakebranch schema diff from git:main: 1 added (*diff.txt)"])
    assert (migrated.path / "diff.txt").read_text() == "1 added\n+ column public.item.note  text\n"
    said = command("diff", "git:main")
    assert (said.code, said.out) == (0, "1 added\n+ column public.item.note  text\n")
    migrated.write(more_dot_sql="CREATE TABLE more ()")
    migrated.write(conftest="def pytest_lakebranch_steps(config): return ['sql:more.sql']")
    result = migrated.run("--lakebranch-schema-diff=hook.txt", "--lakebranch-schema-diff-from=git:main")
    result.stdout.fnmatch_lines(["*not written: git:main: *1 more of the steps come from pytest_lakebranch_steps*"])
    said = command("diff", "git:gone")
    assert said.code == 2
    assert "git:gone: git says:" in said.err


def test_command(migrated: Project, command: Command) -> None:
    """The command compares the base with what it comes from, a file with a base, and writes files."""
    said = command("diff", "source", "base", "--output", "out.md", "--output", "out.json", "--exit-code")
    assert said.code == 1
    assert said.out.startswith("1 added, 1 removed; 1 destructive\n")
    assert "[!CAUTION]" in Path("out.md").read_text()
    assert json.loads(Path("out.json").read_text())["from"] == "source"
    Path("stored.json").write_text(command("schema", "base", "--json").out)
    said = command("diff", "stored.json", "--exit-code")
    assert (said.code, said.out) == (0, "no changes\n")
    assert set(command("diff", "stored.json", "--json").json) == {
        *("version", "from", "to", "added", "removed", "changed", "notes")
    }
    said = command("schema", "source")
    assert "column public.item.code  text" in said.out
    assert command("layers", "build").out.startswith("in the cache: ")


def test_command_with_a_server_elsewhere(migrated: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running server is named by the variable that holds its URL, is only read, and its URL is never said."""
    migrated.write(
        test_it="""
        import os, subprocess, sys

        def test_it(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("CREATE TABLE extra (a int)")
            command = [sys.executable, "-m", "pytest_lakebranch.cli", "diff", "base", "env:SERVER"]
            environ = {**os.environ, "SERVER": lakebranch.url}
            print(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)
            assert lakebranch.diff().only(added=["table extra"])
        """
    )
    result = migrated.run("-s")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["+ table public.extra"])
    for value, code in (("", 2), (f"postgresql://u:{SECRET}@localhost:1/db", 1), (f"{SECRET} is no url", 2)):
        monkeypatch.setenv("SERVER", value)
        said = command("diff", "base", "env:SERVER")
        assert said.code == code, said
        assert "env:SERVER" in said.err
        assert SECRET not in said.err


@pytest.mark.parametrize(
    ("target", "says"), [("gone", "there is no branch 'gone'"), ("gone.json", "gone.json cannot be read")]
)
def test_command_with_nothing_to_compare(migrated: Project, command: Command, target: str, says: str) -> None:
    """What is not there is said."""
    said = command("diff", target)
    assert said.code in (1, 2)
    assert says in said.err


def test_a_base_that_cannot_be_built(migrated: Project, command: Command) -> None:
    """The command says which statement failed, as a run does."""
    (migrated.path / "migrations/V2__wrong.sql").write_text("ALTER TABLE gone ADD note text;")
    said = command("diff", "source")
    assert said.code == 1
    assert "V2__wrong.sql" in said.err
    assert 'relation "gone" does not exist' in said.err


DAMAGED = """
CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1';
SET allow_system_table_mods = on;
UPDATE pg_proc SET prolang = 4242 WHERE proname = 'one';
"""


def test_a_catalog_that_cannot_be_read(project: Project, command: Command) -> None:
    """What PostgreSQL says is one message."""
    project.write(damaged_dot_sql=DAMAGED)
    project.ini(lakebranch_base="sql:damaged.sql")
    said = command("schema", "base")
    assert (said.code, said.out) == (1, "")
    assert said.err == "lakebranch: PostgreSQL says: cache lookup failed for language 4242\n"


def test_steps_that_print(project: Project, command: Command) -> None:
    """What steps and their programs print does not get into the command's own output."""
    seed = "import os\ndef load(conn):\n    print('printed')\n    os.system('echo echoed')"
    project.write(seed=seed)
    project.ini(lakebranch_base="python:seed:load")
    said = command("schema", "base", "--json")
    assert said.json["of"] == "base"
    assert {"printed", "echoed"} <= set(said.err.split())


def test_a_step_that_waits_for_a_lock(project: Project, command: Command) -> None:
    """The command heeds lakebranch_lock_timeout."""
    seed = """
    import psycopg

    def load(conn):
        conn.execute("CREATE TABLE item ()")
        conn.commit()
        with psycopg.connect(conn.info.dsn) as other:
            other.execute("LOCK item")
            conn.execute("ALTER TABLE item ADD price int")
    """
    project.write(locked=seed)
    project.ini(lakebranch_base="python:locked:load", lakebranch_lock_timeout="1s")
    said = command("layers", "build")
    assert said.code == 1
    assert "python:locked:load waited for a lock for 1 s with" in said.err
