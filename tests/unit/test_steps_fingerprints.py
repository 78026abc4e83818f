"""What changes a step's fingerprint and what does not."""

from __future__ import annotations

import functools
import io
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.run import _name_of
from pytest_lakebranch.steps.kinds import Entry, parse


def of(entry: Entry, root: Path) -> str:
    """The fingerprint of one entry."""
    return parse(entry, root=root).fingerprint()


@pytest.mark.parametrize(
    "line",
    [
        "\\i db/other",
        "\\include 'db/other'",
        "\\ir db/other",
        "SELECT 1 \\g\n  \\include_relative db/other",
        "\\copy item from 'db/other' csv",
        "\\copy item (a, b) FROM db/other",
        "\\lo_import db/other",
        "COPY item FROM '{root}/db/other'",
        "\\i db/chain.sql",
    ],
)
def test_files_that_psql_reads_count(tmp_path: Path, line: str) -> None:
    """A change of an included or copied file is a change of the step, however deep it is included."""
    (tmp_path / "db").mkdir()
    other = tmp_path / "db" / "other"
    other.write_text("SELECT 1;")
    (tmp_path / "db" / "chain.sql").write_text("\\ir other\n\\i db/chain.sql\n")
    (tmp_path / "main.sql").write_text(line.replace("{root}", str(tmp_path)))
    before = of("sql:main.sql", tmp_path)
    other.write_text("SELECT 2;")
    changed = of("sql:main.sql", tmp_path)
    other.unlink()
    assert len({before, changed, of("sql:main.sql", tmp_path)}) == 3


def test_copies_from_elsewhere_do_not_count(tmp_path: Path) -> None:
    """``\\copy from stdin`` and a program name no file, nor does a psql variable."""
    (tmp_path / "main.sql").write_text("\\copy t from stdin\n\\copy t from program 'ls'\n\\i :file\n\\i `ls`\n")
    before = of("sql:main.sql", tmp_path)
    for name in ("stdin", "program", "ls", ":file"):
        (tmp_path / name).write_text("x")
    assert of("sql:main.sql", tmp_path) == before


def test_order_of_a_folder_counts(tmp_path: Path) -> None:
    """Renaming a file so that it runs earlier changes the fingerprint; moving the folder does not."""
    folder = tmp_path / "db"
    folder.mkdir()
    (folder / "1.sql").write_text("SELECT 1;")
    (folder / "2.sql").write_text("SELECT 2;")
    before = of("sql:db", tmp_path)
    moved = folder.rename(tmp_path / "moved")
    assert of("sql:moved", tmp_path) == before
    (moved / "2.sql").rename(moved / "0.sql")
    assert of("sql:moved", tmp_path) != before


@pytest.mark.parametrize("entry", ["sql:main.sql", "dump:main.sql", "python:seed:load"])
def test_inputs_count(tmp_path: Path, entry: str) -> None:
    """Files named by ``inputs=`` are part of any kind's fingerprint, also one that is added later."""
    (tmp_path / "main.sql").write_text("SELECT 1;")
    (tmp_path / "seed.py").write_text("def load(conn): ...")
    (tmp_path / "data" / "deep").mkdir(parents=True)
    file = tmp_path / "data" / "deep" / "a.csv"
    file.write_text("1")
    entry = f"{entry} inputs=data/**/*.csv,main.sql"
    before = of(entry, tmp_path)
    file.write_text("2")
    changed = of(entry, tmp_path)
    (tmp_path / "data" / "b.csv").write_text("3")
    assert len({before, changed, of(entry, tmp_path)}) == 3


def test_what_python_caches_does_not_count(tmp_path: Path) -> None:
    """A command that runs Python writes it beside the files that are declared."""
    (tmp_path / "db" / "__pycache__").mkdir(parents=True)
    (tmp_path / "db" / "a.py").write_text("1")
    before = of("command:true inputs=db/**", tmp_path)
    (tmp_path / "db" / "__pycache__" / "a.pyc").write_text("2")
    assert of("command:true inputs=db/**", tmp_path) == before


def test_file_that_vanished_is_named(tmp_path: Path) -> None:
    """A file that was there when the step was parsed and is gone now is a ConfigError."""
    (tmp_path / "main.sql").write_text("SELECT 1;")
    step = parse("sql:main.sql", root=tmp_path)
    (tmp_path / "main.sql").unlink()
    with pytest.raises(ConfigError, match=r"sql:main.sql: .*main.sql cannot be read: No such file"):
        step.fingerprint()


def test_callables_of_one_module_differ(tmp_path: Path) -> None:
    """Each callable of a module is a step of its own."""
    (tmp_path / "seed.py").write_text("def load(conn): ...\ndef more(conn): ...\n")
    assert of("python:seed:load", tmp_path) != of("python:seed:more", tmp_path)


def rows(count: int) -> Any:
    """A callable that carries a value in its closure."""
    return lambda conn: count


class Rows:
    """A callable object."""

    def __init__(self, count: object) -> None:
        self.count = count

    def __call__(self, conn: object) -> object:
        return self.count

    def load(self, conn: object) -> object:
        """The same as a method."""
        return self.count


def load(conn: object, count: object = 1) -> object:
    """A plain callable."""
    return count


@pytest.mark.parametrize(
    "make",
    [
        rows,
        Rows,
        lambda count: Rows(count).load,
        lambda count: functools.partial(load, count=count),
        lambda count: functools.partial(load, count=re.compile(str(count))),
        lambda count: functools.partial(load, count=io.StringIO(str(count))),
        lambda count: functools.partial(load, count=[{"n": (count,)}]),
        lambda count: functools.wraps(load)(rows(count)),
    ],
    ids=[
        "closure",
        "object",
        "method",
        "partial",
        "partial of pattern",
        "partial of text",
        "partial of nested values",
        "wrapped",
    ],
)
def test_values_that_a_callable_carries_count(tmp_path: Path, make: Any) -> None:
    """Two callables from the same lines differ by their values, and equal ones are equal in every process."""
    assert of(make(1), tmp_path) == of(make(1), tmp_path)
    assert of(make(1), tmp_path) != of(make(2), tmp_path)


def test_carried_value_without_known_content_is_refused(tmp_path: Path) -> None:
    """Better an error than a base that is not rebuilt: an open file says nothing about its content."""
    with (tmp_path / "x").open("w") as file, pytest.raises(ConfigError, match="whose content cannot be told"):
        of(functools.partial(load, count=file), tmp_path)


def test_lambdas_on_one_line_differ(tmp_path: Path) -> None:
    """By what they name, what they hold and where they stand."""
    pairs = [
        (lambda conn: conn.one, lambda conn: conn.two),
        (lambda conn: 1000, lambda conn: 2000),
        (lambda a, b: a - b, lambda a, b: b - a),
    ]
    for one, other in pairs:
        assert of(one, tmp_path) != of(other, tmp_path)
        assert _name_of(one) != _name_of(other)


class Quiet:
    """A callable object without any state."""

    def __call__(self, conn: object) -> None: ...


def test_object_without_state_has_a_fingerprint(tmp_path: Path) -> None:
    """A callable object need not carry anything."""
    assert of(Quiet(), tmp_path) == of(Quiet(), tmp_path)


def test_callable_without_source_is_refused(tmp_path: Path) -> None:
    """A callable typed at a prompt has no source file to fingerprint."""
    scope: dict[str, Any] = {}
    exec("def typed(conn): ...", scope)
    with pytest.raises(ConfigError, match="has no source file"):
        of(scope["typed"], tmp_path)


def test_files_that_include_each_other_by_way_of_their_folder(tmp_path: Path) -> None:
    """``..`` is taken out, so that a file is met once."""
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "one.sql").write_text("\\ir ../db/two.sql\n\\i db/../db/./two.sql\n")
    (tmp_path / "db" / "two.sql").write_text("\\ir ../db/one.sql\n")
    before = of("sql:db/one.sql", tmp_path)
    (tmp_path / "db" / "two.sql").write_text("\\ir ../db/one.sql\nSELECT 1;\n")
    assert of("sql:db/one.sql", tmp_path) != before
