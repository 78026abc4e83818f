"""Steps as users write them: what is accepted, and what is refused before the first test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_lakebranch.config import BY_NAME, Settings, resolve
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps.base import Step, Workplace
from pytest_lakebranch.steps.kinds import GRAMMAR, KINDS, parse, parse_all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one file of each kind."""
    (tmp_path / "schema.sql").write_text("SELECT 1;")
    (tmp_path / "shop.dump").write_text("--\n-- PostgreSQL database dump\n--\n")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("raise AssertionError('the package was executed')")
    (tmp_path / "pkg" / "seed.py").write_text("raise AssertionError('executed')\ndef load(conn): ...\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("1\n")
    return tmp_path


def settings_at(root: Path) -> Settings:
    """Settings of a project in ``root``."""
    return resolve(options={"home": str(root / "home")}, environ={}, ini={}, root=root)


def refusal(entry: object, root: Path) -> str:
    """The message with which ``entry`` is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(entry, root=root)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    "entry", ["sql:schema.sql", "dump:shop.dump", "python:pkg.seed:load", "sql:schema.sql inputs=*"]
)
def test_accepted(root: Path, entry: str) -> None:
    """Each kind is accepted and keeps its label, without a module being imported or its package executed."""
    assert parse(entry, root=root).label == entry
    assert "pkg" not in sys.modules


def test_absolute_paths_are_accepted(root: Path, tmp_path: Path) -> None:
    """A path need not be relative to the root."""
    entry = f"sql:{root / 'schema.sql'}"
    assert parse(entry, root=Path("/")).fingerprint() == parse("sql:schema.sql", root=root).fingerprint()


def test_order_is_kept(root: Path) -> None:
    """Steps run in the order in which they are written."""
    entries = ["sql:schema.sql", "dump:shop.dump"]
    assert [step.label for step in parse_all(entries, settings_at(root))] == entries


def test_step_object_is_taken_as_it_is(root: Path) -> None:
    """A hook may supply an object with label, fingerprint and apply."""

    class Own:
        label = "own"

        def fingerprint(self) -> str:
            return "1"

        def apply(self, place: Workplace) -> str:
            return "done"

    own: Step = Own()
    assert parse(own, root=root) is own
    assert "is a class" in refusal(Own, root)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("sqll:schema.sql", "there is no kind 'sqll'. Did you mean sql:?"),
        ("alembic:alembic.ini", "there is no file or folder "),
        ("alembic:pkg", "pkg is a folder, not an alembic.ini."),
        ("django:nowhere.settings", "there is no module nowhere.settings: 'nowhere' was not found in "),
        ("django:pkg/settings.py", "'pkg/settings.py' is not the name of a settings module"),
        ("command:no-such-program up", "there is no program no-such-program on PATH"),
        ("command:./schema.sq", "Did you mean schema.sql?"),
        ("command:./schema.sql", "may not be executed: `chmod +x ./schema.sql`"),
        ("command:true", "could go unnoticed. Declare the files that decide it: inputs=GLOB,…, such as"),
        ("command:cat ./schema.sql", "inputs=migrations/**; inputs=schema.sql if it needs no other."),
        ("command:echo 'a", "it cannot be split into words"),
        ("schema.sql", "it names no kind. Did you mean 'sql:schema.sql'?"),
        ("shop.dump", "it names no kind. Did you mean 'dump:shop.dump'?"),
        ("dumb", "it names no kind. Did you mean dump:?"),
        ("sql:", "nothing follows sql:"),
        ("sql:shema.sql", "{root}/shema.sql. Did you mean schema.sql?"),
        ("sql:no/schema.sql", "Its folder {root}/no does not exist."),
        ("dump:shop.dmp", "{root}/shop.dmp. Did you mean shop.dump?"),
        (f"sql:{'x' * 300}", "cannot be looked at: File name too long"),
        ("sql:empty", "the folder {root}/empty has no file named *.sql"),
        ("dump:empty", "the folder {root}/empty has no toc.dat"),
        ("python:pkg.seed", "'pkg.seed' is not of the form PKG.MOD:CALLABLE"),
        ("python:pkg/seed.py:load", "is not of the form PKG.MOD:CALLABLE"),
        ("python:pkg.sead:load", "there is no module pkg.sead: 'sead' was not found in {root}/pkg"),
        ("python:pgk.seed:load", "'pgk' was not found in {root} or on Python's search path"),
        ("python:pkg.seed.more:load", "there is no module pkg.seed.more"),
        ("python:empty:load", "empty is a folder or a built-in module without a source file"),
        ("python:pkg.seed:lod", "{root}/pkg/seed.py defines no lod. Did you mean load?"),
        ("sql:schema.sql inputs=*.parquet", "inputs=*.parquet matches no file in {root}"),
        ("sql:schema.sql inputs=empty", "inputs=empty matches no file"),
        ("sql:schema.sql inputs=rows.csv,,x", "inputs= has an empty glob"),
        ("sql:schema.sql inputs=", "inputs= has an empty glob"),
    ],
)
def test_refused(root: Path, entry: str, says: str) -> None:
    """A wrong step is quoted, with what was looked for and where; with the kinds there are where it is of none."""
    message = refusal(entry, root)
    assert entry in message
    assert says.format(root=root) in message
    assert (GRAMMAR in message) == ("is not a step" in message)


@pytest.mark.parametrize("told", [GRAMMAR, BY_NAME["base"].help], ids=["error", "help"])
def test_every_kind_is_told(told: str) -> None:
    """What is said of the kinds of steps names all of them, and what a program must declare."""
    assert [kind for kind in KINDS if f" {kind}:" not in told] == []
    assert "command:PROGRAM ARGUMENTS inputs=GLOB" in told


def test_other_objects_are_refused(root: Path) -> None:
    """What is neither text, nor callable, nor a step is shown."""
    assert refusal(3, root).startswith("3 is not a step")


def test_syntax_error_is_found_before_the_first_test(root: Path) -> None:
    """A module that is no Python is refused with its line."""
    (root / "broken.py").write_text("x = 1\ndef load(conn:\n")
    assert f"{root}/broken.py:2 is not valid Python" in refusal("python:broken:load", root)


@pytest.mark.parametrize(
    "source",
    ["from somewhere import load\n", "from somewhere import *\n", "def __getattr__(name): ...\n", "load = print\n"],
)
def test_names_that_may_exist_are_accepted(root: Path, source: str) -> None:
    """Only a name that the module certainly lacks is refused without importing it."""
    (root / "maybe.py").write_text(source)
    assert parse("python:maybe:load", root=root).label == "python:maybe:load"


def test_installed_and_namespace_modules_are_found(root: Path) -> None:
    """A module may be installed, or lie in a folder without ``__init__.py``."""
    (root / "space" / "inner").mkdir(parents=True)
    (root / "space" / "inner" / "seed.py").write_text("def load(conn): ...\n")
    assert parse_all(["python:space.inner.seed:load", "python:json.decoder:JSONDecoder"], settings_at(root))
    assert "space" not in sys.modules


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: was pg_dump interrupted?"),
        (b"\x1f\x8b\x08rest", "is compressed with gzip"),
        (b"-- MySQL dump 10.13\n", "is none of pg_dump's formats"),
        (b"SQLite format 3\0", "is none of pg_dump's formats"),
        (b"\x7fELF\0\0", "is none of pg_dump's formats"),
        (b"--\n-- PostgreSQL database cluster dump\n--\n", "made by pg_dumpall"),
        (b"--\n-- PostgreSQL database dump\n--\nCREATE DATABASE shop;\n\\connect shop\n", "without --create"),
        (b"x" * 257 + b"ustar" + b"x" * 300, "but not one of `pg_dump --format=tar`"),
    ],
)
def test_files_that_are_no_dump_are_refused(root: Path, content: bytes, says: str) -> None:
    """A dump is recognised by content, before the first test."""
    (root / "backup").write_bytes(content)
    assert says in refusal("dump:backup", root)


@pytest.mark.parametrize(("entry", "library"), [("alembic:alembic.ini", "alembic"), ("django:conf", "django")])
def test_missing_library_is_named(root: Path, monkeypatch: pytest.MonkeyPatch, entry: str, library: str) -> None:
    """A step whose tool is not installed says which, and how to have it."""
    (root / "alembic.ini").write_text("[alembic]\n")
    (root / "conf.py").write_text("")
    monkeypatch.setitem(sys.modules, library, None)
    assert f"needs {library}, which is not installed: `pip install 'pytest-lakebranch[{library}]'`" in refusal(
        entry, root
    )
