"""``lakebranch layers`` and ``lakebranch open`` of what is in the cache."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pytest_lakebranch.state import State
from tests.plugin.cli_rigs import SCHEMA, Command, layer_directories, standing
from tests.plugin.conftest import Project

TEST = """
def test_it(lakebranch_conn):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
"""


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


@pytest.fixture
def home(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A state directory with the layers of a project that has been run once; the project is the present directory."""
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path / "home"))
    project.write(schema_dot_sql=SCHEMA, test_it=TEST)
    project.ini(lakebranch_base="sql:schema.sql")
    project.run("-q").assert_outcomes(passed=1)
    monkeypatch.chdir(project.path)
    return tmp_path / "home"


def test_ls(home: Path, command: Command) -> None:
    """The layers of a run are listed, the finished base as the most recently used, with their size and PostgreSQL."""
    found = command("layers", "ls", "--json").json
    assert sorted(layer["key"] for layer in found["layers"]) == layer_directories(home)
    assert found["bytes"] == sum(layer["bytes"] for layer in found["layers"]) > 1_000_000
    assert {layer["in_use"] for layer in found["layers"]} == {False}
    said = command("layers", "ls").out
    assert all(layer["key"][:12] in said for layer in found["layers"])
    assert "2 layers" in said


def test_ls_of_an_empty_cache(command: Command, tmp_path: Path) -> None:
    """An empty cache is no error."""
    State(tmp_path / "new").ensure()
    assert command("layers", "ls", "--home", str(tmp_path / "new")).out == "no layers\n"


def test_rebuild_of_this_project(home: Path, project: Project, command: Command) -> None:
    """The project's own layers are forgotten, the empty cluster under them stays, and the next run builds anew."""
    before = layer_directories(home)
    (forgotten,) = command("layers", "rebuild", "--json").json["forgotten"]
    assert layer_directories(home) == [key for key in before if key != forgotten]
    result = project.run()
    result.stdout.fnmatch_lines(["base built in * from 1 step *"])
    assert layer_directories(home) == before
    assert command("layers", "rebuild").code == 0
    said = command("layers", "rebuild")
    assert said.code == 1
    assert "none of this project's layers is in the cache" in said.err


def test_rebuild_by_key(home: Path, command: Command) -> None:
    """Beginnings of keys are enough, if they name one layer; one that names none changes nothing."""
    first, second = layer_directories(home)
    assert command("layers", "rebuild", first[:8], "nonsense").code == 1
    assert layer_directories(home) == [first, second]
    assert command("layers", "rebuild", first[:8], "--json").json["forgotten"] == [first]
    assert command("layers", "rebuild", "--all", "--json").json["forgotten"] == [second]
    assert layer_directories(home) == []


def test_prune_by_size_and_age(home: Path, command: Command) -> None:
    """The least recently used layer goes first; a dry run deletes nothing."""
    newer, older = (layer["key"] for layer in command("layers", "ls", "--json").json["layers"])
    size = command("layers", "ls", "--json").json["bytes"]
    dry = command("layers", "prune", "--to", str(size - 1), "--dry-run", "--json").json
    assert (dry["deleted"], dry["dry_run"]) == ([older], True)
    assert len(layer_directories(home)) == 2
    assert command("layers", "prune", "--older-than", "1d", "--json").json["deleted"] == []
    yesterday = time.time() - 2 * 86400
    os.utime(home / "layers" / newer / "layer.json", (yesterday, yesterday))
    assert command("layers", "prune", "--older-than", "1d", "--json").json["deleted"] == [newer]
    assert layer_directories(home) == [older]
    assert command("layers", "prune", "--all").out.startswith(f"deleted {older[:12]}")
    assert layer_directories(home) == []


def test_using_a_layer_makes_it_recent(home: Path, project: Project, command: Command) -> None:
    """A run that takes its base from the cache counts as use."""
    for key in layer_directories(home):
        os.utime(home / "layers" / key / "layer.json", (1, 1))
    project.run("-q").assert_outcomes(passed=1)
    deleted = command("layers", "prune", "--older-than", "1h", "--json").json["deleted"]
    assert len(deleted) == 1
    assert command("open", "base", "--provider", "local", "--", "-tAc", "select count(*) from item").out == "2\n"


def test_layers_in_use_stay(
    project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While a run works on a layer it is neither pruned nor taken away by a rebuild; the run ends green."""
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path / "home"))
    with standing(Project(project.pytester, tmp_path / "home")) as run:
        monkeypatch.chdir(project.path)
        used = [layer["key"] for layer in command("layers", "ls", "--json").json["layers"] if layer["in_use"]]
        pruned = command("layers", "prune", "--all", "--json").json
        assert (pruned["deleted"], sorted(pruned["in_use"])) == ([], sorted(used))
        (forgotten,) = command("layers", "rebuild", "--json").json["forgotten"]
        assert layer_directories(tmp_path / "home") == sorted(used)
        assert "1 passed" in run.end()
    assert layer_directories(tmp_path / "home") == [key for key in sorted(used) if key != forgotten]


def test_a_damaged_layer(home: Path, command: Command) -> None:
    """A layer whose mark cannot be read is shown as damaged, and goes with any pruning."""
    key = layer_directories(home)[0]
    (home / "layers" / key / "layer.json").write_text("{")
    layers = command("layers", "ls", "--json").json["layers"]
    assert [layer["damaged"] for layer in layers if layer["key"] == key] == [True]
    assert command("layers", "prune", "--older-than", "52w", "--json").json["deleted"] == [key]


def test_open_a_layer(home: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base opens by ``base`` and by its key, from anywhere; what is done in it does not reach the layer."""
    key = command("layers", "rebuild", "--help") and command("layers", "ls", "--json").json["layers"][0]["key"]
    assert command("open", "base", "--", "-c", "delete from item").code == 0
    monkeypatch.chdir("/")
    assert command("open", key[:10], "--", "-tAc", "select count(*) from item").out == "2\n"


def test_open_a_layer_of_another_postgres(home: Path, command: Command) -> None:
    """A layer that the present programs cannot read says which ones could."""
    layer = command("layers", "ls", "--json").json["layers"][0]
    mark = json.loads(Path(layer["directory"], "layer.json").read_text())
    Path(layer["directory"], mark["generation"], "PG_VERSION").write_text("15\n")
    said = command("open", layer["key"])
    assert said.code == 1
    assert "it was made by PostgreSQL 15" in said.err


def test_open_base_before_the_first_run(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that was never built says what to do."""
    project.write(schema_dot_sql="select 'never built';")
    project.ini(lakebranch_base="sql:schema.sql")
    monkeypatch.chdir(project.path)
    said = command("open", "base")
    assert said.code == 1
    assert "run pytest once" in said.err
