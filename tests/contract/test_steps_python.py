"""What ``python:`` steps make of a seed that fails, ends its transaction itself, or does nothing."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from step_servers import Server, rows

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]


@pytest.fixture
def place(embedded_server: Server, tmp_path: Path) -> Workplace:
    """A fresh database; which PostgreSQL serves it does not matter here."""
    return embedded_server.place(tmp_path)


@pytest.fixture(autouse=True)
def _forget_modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("their"):
            del sys.modules[name]


def seed(place: Workplace, source: str) -> str:
    """Apply the callable ``load`` of a module with this source; what it reports."""
    (place.root / "their_seed.py").write_text(source)
    return parse("python:their_seed:load", root=place.root).apply(place)


def failure(place: Workplace, source: str) -> BaseError:
    """The error of a seed that fails."""
    with pytest.raises(BaseError) as caught:
        seed(place, source)
    return caught.value


@pytest.mark.parametrize("ending", ["pass", "conn.commit()", "conn.commit(); conn.close()"])
def test_work_is_committed(place: Workplace, ending: str) -> None:
    """A seed may leave committing and closing to us, or do both itself."""
    seed(place, f"def load(conn):\n    conn.execute('CREATE TABLE item (id int)')\n    {ending}\n")
    assert rows(place, "SELECT count(*) FROM item") == [(0,)]


def test_server_error_tells_line_and_statement(place: Workplace) -> None:
    """An error of the server names the line of the user's code and the statement without its parameters."""
    source = "def load(conn):\n    deeper(conn)\n\ndef deeper(conn):\n    conn.execute('SELECT %s / 0', ['secret'])\n"
    message = str(failure(place, source))
    assert message.startswith("python:their_seed:load failed at their_seed.py:5:\n    psycopg.errors.")
    assert message.endswith("statement:\n    SELECT %s / 0")


def test_other_exceptions_are_chained(place: Workplace) -> None:
    """Any exception becomes one message, with the exception itself as its cause."""
    error = failure(place, "def load(conn):\n    return {}['key']\n")
    assert str(error) == "python:their_seed:load failed at their_seed.py:2:\n    KeyError: 'key'"
    assert isinstance(error.__cause__, KeyError)


@pytest.mark.parametrize(
    "source",
    ["import pytest\ndef load(conn):\n    pytest.skip('no')\n", "import sys\ndef load(conn):\n    sys.exit('no')\n"],
)
def test_skip_and_exit_are_failures(place: Workplace, source: str) -> None:
    """A seed that skips must not turn the suite green, and one that exits must not end the run."""
    assert "their_seed.py:3" in str(failure(place, source))


def test_failing_import_is_located(place: Workplace) -> None:
    """A module that cannot be imported is located in the user's code."""
    assert str(failure(place, "import nowhere_at_all\ndef load(conn): ...\n")).startswith(
        "python:their_seed:load failed at their_seed.py:1:\n    ModuleNotFoundError: No module named 'nowhere_at_all'"
    )


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("async def load(conn): ...\n", "is an async function or a generator"),
        ("def load(conn):\n    yield\n", "is an async function or a generator"),
        ("load = 3\n", "load is a int, not a callable"),
        ("def lood(conn): ...\n# load\n", r"has no load\. Did you mean lood\?"),
        ("def load(): ...\n", r"its call:\n    TypeError: load\(\) takes 0 positional arguments but 1 was given"),
        (
            "def load(conn):\n    try: conn.execute('nonsense')\n    except Exception: pass\n",
            "it returned after a statement had failed",
        ),
    ],
    ids=["async", "generator", "no callable", "absent", "no parameter", "swallowed"],
)
def test_seed_that_would_do_nothing_is_refused(place: Workplace, source: str, says: str) -> None:
    """What would silently leave the database as it was is an error that says why."""
    assert re.search(says, str(failure(place, source)))


def test_packages_below_the_root_are_importable(place: Workplace) -> None:
    """``python:pkg.mod:callable`` is found from the root, also when the callable is a method of a class."""
    package = place.root / "their" / "data"
    package.mkdir(parents=True)
    (place.root / "their" / "__init__.py").write_text("")
    text = "class Seeds:\n    @staticmethod\n    def load(conn): conn.execute('CREATE TABLE item ()')\n"
    (package / "seeds.py").write_text(text)
    parse("python:their.data.seeds:Seeds.load", root=place.root).apply(place)
    assert rows(place, "SELECT count(*) FROM item") == [(0,)]


def test_missing_extension_is_explained(place: Workplace) -> None:
    """The advice for sql: and dump: serves Python as well."""
    message = str(failure(place, "def load(conn):\n    conn.execute('CREATE EXTENSION \"uuid-ossp\"')\n"))
    assert "has no extension uuid-ossp" in message


def test_module_of_the_same_name_elsewhere(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported before under the module's name is not called in its place."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "seed_of_two.py").write_text("def load(conn): raise AssertionError('the wrong one')")
    (tmp_path / "seed_of_two.py").write_text("def load(conn): ...")
    monkeypatch.syspath_prepend(other)
    monkeypatch.setitem(sys.modules, "seed_of_two", importlib.import_module("seed_of_two"))
    with pytest.raises(BaseError, match=r"another module of that name has been imported before: .*/other/seed_of_two"):
        parse("python:seed_of_two:load", root=tmp_path).apply(place)
