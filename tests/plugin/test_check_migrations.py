"""Checks on migrations, as a user meets them: items, failures, figures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.plugin.conftest import Project

SHAPE = """
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, code text);
INSERT INTO item SELECT n, 'item ' || n, 'code ' || n FROM generate_series(1, 5000) AS n;
ANALYZE item;
CREATE UNLOGGED TABLE visit AS SELECT * FROM item;
CREATE TABLE line (id int PRIMARY KEY, code text, size int) PARTITION BY RANGE (id);
CREATE TABLE line_1 PARTITION OF line FOR VALUES FROM (0) TO (1000);
INSERT INTO line SELECT n, 'code ' || n, n FROM generate_series(1, 500) AS n;
"""
GOOD = "ALTER TABLE item ADD IF NOT EXISTS note text;"
GOOD_DOWN = "ALTER TABLE item DROP note;"


@pytest.fixture
def shaped(project: Project) -> Project:
    """A project with rows, and a folder for migrations."""
    project.write(shape_dot_sql=SHAPE)
    (project.path / "migrations").mkdir()
    project.ini(lakebranch_base=["sql:shape.sql", "sql:migrations"], lakebranch_check_migrations="true")
    return project


def migration(project: Project, name: str, text: str, down: str = "") -> None:
    """Write a migration, and what undoes it."""
    (project.path / f"migrations/{name}.sql").write_text(text)
    if down:
        (project.path / f"migrations/{name}.down.sql").write_text(down)


def told(result: pytest.RunResult, *lines: str) -> None:
    """The lines are in the output, in whatever order."""
    for line in lines:
        result.stdout.fnmatch_lines([line])


def test_all_pass_with_workers_and_in_every_report(shaped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good migrations pass with workers; JUnit, the Markdown file and GitHub's summary have what was measured."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(shaped.path / "summary"))
    migration(shaped, "0001_note", GOOD, GOOD_DOWN)
    migration(shaped, "0002_size", "ALTER TABLE item ADD IF NOT EXISTS size int NOT NULL DEFAULT 1;")
    shaped.write(test_it="def test_it(lakebranch_conn): lakebranch_conn.execute('SELECT note, size FROM item')")
    result = shaped.spawn("-n", "2", "-rs", "--junitxml=junit.xml", "--lakebranch-schema-diff=diff.md")
    result.assert_outcomes(passed=8, skipped=1)
    told(result, "SKIPPED*migration 0002 size is declared irreversible*")
    cases = {case.get("name"): case for case in ET.parse(shaped.path / "junit.xml").iter("testcase")}
    facts = {one.get("name"): one.get("value") for one in cases["lint"].iter("property")}
    assert "ACCESS EXCLUSIVE on public.item for " in str(facts["lakebranch_locks"])
    assert int(str(facts["lakebranch_wal_bytes"])) > 0
    markdown = (shaped.path / "diff.md").read_text()
    assert "- column `public.item.size`: `integer not null default 1`" in markdown
    assert "| `0001 note` | ✅ | ✅ | ✅ | ✅ |" in markdown
    assert "| `0002 size` | ✅ | ✅ | ⏭ | ✅ |" in markdown
    assert markdown.split("### Migration checks")[1] in (shaped.path / "summary").read_text()


def test_a_migration_that_fails(shaped: Project) -> None:
    """Every check says where and why, without a traceback; those before it are not concerned."""
    migration(shaped, "0001_note", GOOD, GOOD_DOWN)
    migration(shaped, "0002_wrong", "ALTER TABLE item ADD wrong int NOT NULL;")
    result = shaped.run("-k", "0002 and (applies or lint) or 0001 and applies")
    result.assert_outcomes(passed=1, failed=2)
    told(
        result,
        "*migration 0002 wrong: applies*",
        "migration 0002 wrong cannot be applied:",
        '*column "wrong" of relation "item" contains null values*',
    )
    assert "rehearsal.py" not in str(result.stdout)


@pytest.mark.parametrize("also", ["0001 or ", ""])
def test_what_ran_before_does_not_matter(shaped: Project, also: str) -> None:
    """Rows that an earlier migration brought count, whether it was checked in the same run or not."""
    made = "CREATE TABLE brand (n int) PARTITION BY RANGE (n); CREATE TABLE brand_1 PARTITION OF brand DEFAULT;"
    migration(shaped, "0001_brand", f"{made} INSERT INTO brand SELECT generate_series(1, 1000);")
    filled = "UPDATE brand SET code = 'x'; ALTER TABLE brand ALTER code SET NOT NULL;"
    migration(shaped, "0002_code", f"ALTER TABLE brand ADD code text; {filled}")
    shaped.run("-k", f"({also}0002) and lint").assert_outcomes(passed=2 if also else 1)


def test_what_later_steps_run(shaped: Project) -> None:
    """Files in a folder of the migrations' that a step after them runs are no obstacle; those that nothing runs are."""
    migration(shaped, "0001_note", GOOD)
    (shaped.path / "migrations/seeds").mkdir()
    migration(shaped, "seeds/item", "INSERT INTO item VALUES (0, 'seed', '');")
    (shaped.path / "more").mkdir()
    (shaped.path / "more/0002_size.sql").write_text("ALTER TABLE item ADD IF NOT EXISTS size int;")
    base = ["sql:shape.sql", "sql:migrations", "sql:more"]
    shaped.write(test_it="def test_it(lakebranch_conn): lakebranch_conn.execute('SELECT size FROM item')")
    shaped.ini(lakebranch_base=base, lakebranch_check_migrations="true")
    told(shaped.run("test_it.py"), "*sql:migrations: migrations/seeds/item.sql is not run: *")
    shaped.ini(lakebranch_base=[*base, "sql:migrations/seeds"], lakebranch_check_migrations="true")
    shaped.run("-k", "0002 and applies or test_it").assert_outcomes(passed=2)


BLOCKS = """
CREATE EXTENSION IF NOT EXISTS dblink;
BEGIN;
LOCK item;
SELECT dblink_exec('host=' || trim('"' FROM current_setting('unix_socket_directories'))
    || ' port=' || current_setting('port')
    || ' user=' || current_user || ' dbname=' || current_database(), 'ALTER TABLE item ADD blocked int');
"""


def test_a_migration_that_waits_for_itself(shaped: Project) -> None:
    """It ends after the time that steps have, where it is tried and where the next one needs it."""
    migration(shaped, "0001_blocks", BLOCKS)
    migration(shaped, "0002_note", GOOD)
    result = shaped.run("-k", "applies", "--lakebranch-lock-timeout=1s")
    result.assert_outcomes(failed=2)
    told(result, "*0001_blocks.sql waited for a lock for 1 s with", "*ALTER TABLE item ADD blocked int")
    assert str(result.stdout).count("waited for a lock for 1 s with") == 2


def test_a_migration_that_ends_the_server(shaped: Project) -> None:
    """What is told is that, not that nothing could be measured."""
    migration(shaped, "0001_ends", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> 1;")
    result = shaped.run("-k", "applies")
    result.assert_outcomes(failed=1)
    told(result, "migration 0001 ends cannot be applied:", "*terminating connection due to administrator command*")
    assert "measured" not in str(result.stdout)


BAD = {
    "0001_rename": (
        "ALTER TABLE item RENAME code TO sku;",
        ("adds-and-drops: it adds column public.item.sku and drops column public.item.code", "renaming-column: *"),
    ),
    "0002_type": (
        "ALTER TABLE item ALTER id TYPE bigint;",
        ("table-rewrite: all rows of public.item (another type; 5,000 rows, *) * ACCESS EXCLUSIVE on public.item",),
    ),
    "0003_index": (
        "CREATE INDEX item_name_idx ON item (name);",
        ("require-concurrent-index-creation: public.item_name_idx was built while nobody could write to public.item",),
    ),
    "0004_empty": ("CREATE TABLE empty (id int);", ()),
    "0005_required": (
        "ALTER TABLE empty ADD needed int NOT NULL;",
        ("adding-required-field: column needed of public.empty (0 rows) is new, may not be NULL",),
    ),
    "0006_unique": (
        "ALTER TABLE item ADD UNIQUE (name);",
        ("disallowed-unique-constraint: *",),
    ),
}


def test_lint(shaped: Project) -> None:
    """Each rule is found where it was broken, and nowhere else."""
    for name, (text, _) in BAD.items():
        migration(shaped, name, text)
    migration(shaped, "0007_concurrently", "CREATE INDEX CONCURRENTLY item_sku_idx ON item (sku);")
    migration(shaped, "0008_default", "ALTER TABLE item ADD b int NOT NULL DEFAULT 1;")
    result = shaped.run("-k", "lint")
    result.assert_outcomes(passed=3, failed=5)
    told(result, *(f"- {line}*" for _, lines in BAD.values() for line in lines))
    told(result, "measured: * ms; * bytes of log; ACCESS EXCLUSIVE on public.item for * ms (stops reads and writes)*")
    result = shaped.run("-k", "lint and (0002 or 0003)", "--lakebranch-check-migrations-allow=0002:table-rewrite")
    result.assert_outcomes(passed=1, failed=1)
    result = shaped.run("-k", "lint", "--lakebranch-check-migrations-since=0006")
    result.assert_outcomes(passed=2)
    result = shaped.run("--lakebranch-check-migrations-since=9")
    result.stderr.fnmatch_lines(["*lakebranch_check_migrations_since: there is no migration '9'.*0008*"])


def test_again_and_back(shaped: Project) -> None:
    """What is left by a second application or by a rollback is named: an error, a thing of the schema, rows.

    Columns that it drops are not compared, neither are those of partitions; unlogged tables are empty throughout.
    """
    migration(shaped, "0001_table", "CREATE TABLE once (id int);", "DROP TABLE once;")
    migration(shaped, "0002_rows", "UPDATE item SET name = name || '!';", "UPDATE item SET name = rtrim(name, '!');")
    migration(shaped, "0003_left", "ALTER TABLE item ADD IF NOT EXISTS x int;", "SELECT 1;")
    migration(shaped, "0004_lossy", "UPDATE item SET name = '';", "SELECT 1;")
    drops = "ALTER TABLE {0} DROP IF EXISTS code;", "ALTER TABLE {0} ADD code text;"
    migration(shaped, "0005_drops", *(one.format("item") + one.format("line") for one in drops))
    migration(shaped, "0006_partition", "UPDATE line SET size = 0;", "SELECT 1;")
    result = shaped.run("-k", "idempotent or reversible")
    result.assert_outcomes(passed=7, failed=5)
    told(
        result,
        "migration 0001 table cannot be applied again, which is needed where it was interrupted:",
        '*relation "once" already exists*',
        "migration 0002 rows changes something when it is applied again:",
        "    rows of public.item: there are 5,000 as before, with other values",
        "migration 0003 left, rolled back, leaves something:",
        "    + column public.item.x  integer",
        "migration 0004 lossy, rolled back, leaves something:",
        "migration 0006 partition, rolled back, leaves something:",
        "    rows of public.line_1: there are 500 as before, with other values",
    )
    assert "migration 0005 drops, rolled back" not in str(result.stdout)


@pytest.mark.soak
def test_selection(shaped: Project) -> None:
    """Checks are chosen by node id, by marker, by what failed last; and they are not in the way of single tests."""
    migration(shaped, "0001_note", GOOD, GOOD_DOWN)
    migration(shaped, "0002_wrong", "ALTER TABLE gone ADD x int;")
    shaped.write(test_it="def test_it(): pass")
    shaped.run("test_it.py").assert_outcomes(passed=1)
    shaped.run("migrations/0001_note.sql::applies").assert_outcomes(passed=1)
    shaped.run("migrations/0001_note.sql", "-k", "applies or lint").assert_outcomes(passed=2)
    result = shaped.run("-m", "lakebranch_migrations", "-k", "applies", "-v", "--tb=no")
    result.assert_outcomes(passed=1, failed=1)
    told(result, "migrations/0001_note.sql::applies PASSED*", "migrations/0002_wrong.sql::applies FAILED*")
    shaped.run("--lf").assert_outcomes(failed=1)


@pytest.mark.soak
def test_in_a_test_of_ones_own(shaped: Project) -> None:
    """The fixture gives the newest migration, or another one, with everything that was measured."""
    migration(shaped, "0001_note", GOOD, GOOD_DOWN)
    migration(shaped, "0002_type", "ALTER TABLE item ALTER id TYPE bigint;")
    shaped.ini(lakebranch_base=["sql:shape.sql", "sql:migrations"], lakebranch_user="clerk")
    shaped.write(
        test_it="""
        import pytest

        def test_newest(lakebranch_migration):
            with lakebranch_migration.branch.connect() as conn:
                conn.execute("INSERT INTO item (id, name) VALUES (0, '')")
            lakebranch_migration.apply()
            (lock,) = lakebranch_migration.locks
            assert (lock.table, lock.level, lock.stops) == ("public.item", "ACCESS EXCLUSIVE", "reads and writes")
            assert 0 < lock.held <= lakebranch_migration.duration + 0.01
            (rewrite,) = lakebranch_migration.rewrites
            assert (rewrite.table, rewrite.reason) == ("public.item", "another type")
            assert lakebranch_migration.wal_bytes > 100_000
            assert lakebranch_migration.diff.only(changed=["column item.id"])
            assert lakebranch_migration.statements == ("ALTER TABLE item ALTER id TYPE bigint",)
            assert not lakebranch_migration.reversible

        def test_other(lakebranch_migration):
            note = lakebranch_migration("0001")
            note.apply()
            assert note.rewrites == ()
            assert note.diff.only(added=["column item.note"])
            with note.branch.connect() as conn:
                assert conn.execute("SELECT count(note) FROM item").fetchone() == (0,)
                assert conn.execute("SELECT 1 FROM pg_event_trigger").fetchall() == []
                owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'item'"
                assert conn.execute(owner).fetchone() == ("clerk",)
            note.rollback()
            assert note.diff.only(removed=["column item.note"])

        def test_unknown(lakebranch_migration):
            lakebranch_migration("0003")
        """
    )
    result = shaped.run()
    result.assert_outcomes(passed=2, failed=1)
    told(result, "*there is no migration '0003'*0002*")


def test_without_migrations(project: Project) -> None:
    """A project without migrations has no checks, and the fixture says why."""
    project.write(test_it="def test_it(lakebranch_migration): pass")
    project.ini(lakebranch_check_migrations="true")
    result = project.run()
    result.assert_outcomes(errors=1)
    told(result, "*there are no migrations: no step of lakebranch_base consists of any.*")


def test_two_folders_and_no_place_to_write(shaped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations of one name have a row each, with their files; a summary that cannot be written is said.

    An old diff does not stay where a new one cannot be made.
    """
    migration(shaped, "0001_init", "CREATE TABLE one ();")
    shaped.write(**{"more|less__0001_init_dot_sql": "CREATE TABLE two ();"})
    shaped.ini(lakebranch_base=["sql:migrations", "sql:more|less"], lakebranch_check_migrations="true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(shaped.path))
    (shaped.path / "diff.md").write_text("what an earlier run found")
    result = shaped.run("-k", "applies", "--lakebranch-schema-diff=diff.md", "--lakebranch-schema-diff-from=empty.json")
    result.assert_outcomes(passed=2)
    told(result, f"lakebranch migration checks: not written: Is a directory: {shaped.path}")
    markdown = (shaped.path / "diff.md").read_text()
    assert "| `0001 init (migrations/0001_init.sql)` | ✅ |" in markdown
    assert "| `0001 init (more\\|less/0001_init.sql)` | ✅ |" in markdown
    assert "earlier" not in markdown


@pytest.mark.parametrize(
    ("entry", "mean"), [("table-rewrites", "table-rewrite"), ("0002:renaming-colum", "renaming-column")]
)
def test_a_rule_that_is_none(project: Project, entry: str, mean: str) -> None:
    """A rule that is written wrongly is a usage error, unless the project has a configuration of Squawk."""
    project.write(test_it="def test_it(): pass")
    project.ini(lakebranch_check_migrations="true")
    result = project.run(f"--lakebranch-check-migrations-allow={entry}", "test_it.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*lakebranch_check_migrations_allow: there is no rule *Did you mean {mean}?"])
    (project.path / ".squawk.toml").write_text("")
    project.run(f"--lakebranch-check-migrations-allow={entry}", "test_it.py").assert_outcomes(passed=1)
