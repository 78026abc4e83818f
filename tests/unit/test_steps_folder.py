"""The order of the files in a folder of SQL, and what their names say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps.base import migrations_of
from pytest_lakebranch.steps.folder import Entry, entries
from pytest_lakebranch.steps.kinds import parse, refuse_left_out
from pytest_lakebranch.steps.notes import Notes


def made(root: Path, *names: str) -> list[Entry]:
    """The entries of a folder with these files."""
    folder = root / "db"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"SELECT '{name}';\n")
    return entries(folder, "sql:db")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10_c.sql", "2_b.sql", "1_a.sql"], ["1_a.sql", "2_b.sql", "10_c.sql"]),
        (
            ["V10__c.sql", "V2__b.sql", "V1.1__a.sql", "R__z.sql"],
            ["V1.1__a.sql", "V2__b.sql", "V10__c.sql", "R__z.sql"],
        ),
        (["V1_2__b.sql", "V1.10__c.sql", "V1__a.sql"], ["V1__a.sql", "V1_2__b.sql", "V1.10__c.sql"]),
        (["010_a.sql", "020_b.sql"], ["010_a.sql", "020_b.sql"]),
        (["20240131120000_b.sql", "20231224_a.sql"], ["20231224_a.sql", "20240131120000_b.sql"]),
        (["tables.sql", "functions.sql"], ["functions.sql", "tables.sql"]),
        (["1_a.up.sql", "1_a.down.sql", "2_b.up.sql"], ["1_a.up.sql", "2_b.up.sql"]),
        (["V1__a.sql", "U1__a.sql", "V2__b.sql"], ["V1__a.sql", "V2__b.sql"]),
        (["V1__a.sql", "more/V3__c.SQL", "other/V2__b.sql", "more/x.sql"], ["V1__a.sql", "V2__b.sql", "V3__c.SQL"]),
        (["more/V2__b.sql", "V1__a.sql", ".git/V3__c.sql"], ["V1__a.sql", "V2__b.sql"]),
        (["2_b.SQL", "1_a.sql", "1_a.DOWN.sql"], ["1_a.sql", "2_b.SQL"]),
    ],
)
def test_order(tmp_path: Path, names: list[str], order: list[str]) -> None:
    """Versions count as numbers in every manner of naming; files that undo others are not run."""
    assert [entry.file.name for entry in made(tmp_path, *names)] == order


@pytest.mark.parametrize(
    ("file", "revision", "name"),
    [
        ("V2.1__add_price.sql", "2.1", "add_price"),
        ("V1_0__a.sql", "1", "a"),
        ("R__views.sql", "R__views", "views"),
        ("0002_add_price.up.sql", "0002", "add_price"),
        ("20240131120000_add.sql", "20240131120000", "add"),
        ("schema.sql", "schema", ""),
    ],
)
def test_what_a_name_says(tmp_path: Path, file: str, revision: str, name: str) -> None:
    """The version is the revision, the rest the name."""
    others = ["V9__other.sql"] if "__" in file else []
    found = next(entry for entry in made(tmp_path, file, *others) if entry.file.name == file)
    assert (found.revision, found.name) == (revision, name)


def test_revisions_of_a_folder_differ(tmp_path: Path) -> None:
    """Two plain files with the same number keep their names' order, and are told apart."""
    assert [entry.revision for entry in made(tmp_path, "1_b.sql", "1_a.sql")] == ["1_a", "1_b"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["V1__a.sql", "V1.0__b.sql"], "V1.0__b.sql and V1__a.sql have the same version 1"),
        (
            ["a/V1__x.sql", "b/V1__x.sql"],
            "a/V1__x.sql and b/V1__x.sql have the same version 1: there is no order. Rename",
        ),
        (["V1__x.sql", "a/R__v.sql", "b/R__v.sql"], "a/R__v.sql and b/R__v.sql have the same name R__v: there is no"),
        (["V1__x.sql", "U1__x.sql", "a/U1__x.sql"], "U1__x.sql and a/U1__x.sql have the same version 1"),
        (["V1__a.sql", "afterMigrate.sql"], "afterMigrate.sql: beside files named V1__NAME.sql"),
        (["1_a.down.sql"], "nothing to apply"),
        ([], "has no file named *.sql"),
        (["more/1_a.sql"], "has no file named *.sql itself, only below, such as more/1_a.sql."),
        (["9_drop.sql", "9_dorp.down.sql", "8_a.sql"], "9_dorp.down.sql undoes nothing: there is no file"),
        (["9_drop.sql", "9_dorp.down.sql", "8_a.sql"], "Is it meant to undo 9_drop.sql?"),
        (
            ["V1__a.sql", "V2__b.sql", "U3__b.sql"],
            "U3__b.sql undoes nothing: there is no file that its name belongs to",
        ),
    ],
)
def test_folders_without_an_order(tmp_path: Path, names: list[str], says: str) -> None:
    """What is ambiguous is refused, with the names."""
    with pytest.raises(ConfigError) as caught:
        made(tmp_path, *names)
    assert says in str(caught.value)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """Those of editors are hidden and are none of ours; another is refused with where it leads."""
    made(tmp_path, "1_a.sql")
    (tmp_path / "db" / ".#1_a.sql").symlink_to("me@here.4711:1")
    assert [entry.file.name for entry in entries(tmp_path / "db", "sql:db")] == ["1_a.sql"]
    (tmp_path / "db" / "2_b.sql").symlink_to("gone.sql")
    with pytest.raises(ConfigError, match=r"sql:db: .*/db/2_b.sql cannot be run.* a link to gone.sql\. Mend it"):
        entries(tmp_path / "db", "sql:db")


ENTRIES = """
import sys
from pathlib import Path
from pytest_lakebranch.steps.folder import entries
entries(Path(sys.argv[1]), "sql:db")
"""
AS_ORDINARY_USER = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []


@pytest.mark.parametrize(
    ("file", "closed", "says"),
    [
        ("1_a.sql", "db/data", ""),
        ("V1__a.sql", "db/data", "ConfigError: sql:db: the folder {} cannot be read: Permission denied. Allow it, or"),
        ("1_a.sql", "db", "ConfigError: sql:db: the folder {} cannot be read: Permission denied. Allow it, or move"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, file: str, closed: str, says: str) -> None:
    """They matter where something in them might be run."""
    made(tmp_path, file, "data/x.txt")
    (tmp_path / closed).chmod(0)
    try:
        command = [*AS_ORDINARY_USER, sys.executable, "-c", ENTRIES, str(tmp_path / "db")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        (tmp_path / closed).chmod(0o700)
    assert bool(done.returncode) == bool(says)
    assert says.format(tmp_path / closed) in done.stderr


def test_files_below_a_folder_that_nothing_runs(tmp_path: Path) -> None:
    """They are refused unless a file of any step includes them, another step runs them, or they are declared."""
    made(tmp_path, "1_a.sql", "parts/b.sql", "seeds/c.sql")
    (tmp_path / "db" / "1_a.sql").write_text("\\ir parts/b.sql\n")
    (tmp_path / "seed.sql").write_text("\\ir db/seeds/c.sql\n")

    def check(*entries: str) -> None:
        refuse_left_out([parse(entry, root=tmp_path) for entry in entries])

    with pytest.raises(ConfigError, match=r"sql:db: db/seeds/c.sql is not run: .* inputs=db/seeds/\*\."):
        check("sql:db")
    check("sql:db", "sql:db/seeds")
    check("sql:db", "sql:seed.sql")
    check("sql:db inputs=db/seeds/*")
    (tmp_path / "db" / "seeds" / "pyvenv.cfg").touch()
    check("sql:db")


def test_files_that_are_added_below_a_folder(tmp_path: Path) -> None:
    """What is remembered of a folder is forgotten when there is one more, however deep."""
    made(tmp_path, "V1__a.sql", "more/V2__b.sql")
    notes = Notes(tmp_path / "notes")
    before = parse("sql:db", root=tmp_path, notes=notes).fingerprint()
    (tmp_path / "db" / "more" / "V3__c.sql").write_text("SELECT 3")
    assert parse("sql:db", root=tmp_path, notes=notes).fingerprint() != before


def test_way_back_in_the_same_file_is_refused(tmp_path: Path) -> None:
    """psql would run both sections of goose's and dbmate's files, and nothing would be left."""
    made(tmp_path, "1_a.sql")
    (tmp_path / "db" / "1_a.sql").write_text("-- migrate:up\nCREATE TABLE a ();\n-- migrate:down\nDROP TABLE a;\n")
    with pytest.raises(ConfigError, match="has a section '-- migrate:down'"):
        parse("sql:db", root=tmp_path).fingerprint()


def test_migrations_of_a_folder(tmp_path: Path) -> None:
    """Each file is a migration with a fingerprint of its own; a file alone is none."""
    made(tmp_path, "1_a.up.sql", "1_a.down.sql", "2_b.up.sql")
    step = parse("sql:db", root=tmp_path)
    first, second = migrations_of(step)
    assert (first.label, first.revision, first.name) == ("sql:db 1_a.up.sql", "1", "a")
    assert (first.reversible, second.reversible) == (True, False)
    before = first.fingerprint()
    second.source.write_text("SELECT 2;")
    assert first.fingerprint() == before
    assert migrations_of(parse("sql:db/1_a.up.sql", root=tmp_path)) == []
