"""Migrations edited at random places: which layers are found, built and stored, against a model.

``SOAK_MIGRATIONS``, ``SOAK_EDITS`` and ``SOAK_SEED`` choose how much and what; ``make soak`` takes 200 migrations.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lines import Line
from local_rigs import Rig, rig
from migration_projects import alembic_project, alembic_revision

from pytest_lakebranch.branches.base import Bases, Plan
from pytest_lakebranch.building import Builder
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.providers.local.cache import remove, stored
from pytest_lakebranch.steps.kinds import parse

MIGRATIONS = int(os.environ.get("SOAK_MIGRATIONS", "10"))
EDITS = int(os.environ.get("SOAK_EDITS", "5"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
SECONDS_EACH = 0.3
"""What a migration is said to take, so that some of them are worth a layer."""
MOST_LAYERS = 12
WORTH, QUARTER = 1.0, 4
"""What is stored on the way to a head: what took a second since the last layer, and a quarter of its step's time."""

Content = tuple[str, ...]


@dataclass
class Model:
    """Which contents should be in the cache."""

    layers: set[Content] = field(default_factory=set)

    def start(self, wanted: Content) -> int | None:
        """The unit from which ``wanted`` should be built; None when it is there."""
        if wanted in self.layers:
            return None
        return max((count for count in range(len(wanted)) if wanted[:count] in self.layers), default=0)

    def built(self, wanted: Content, first: int, batches: list[int]) -> None:
        """What was to be stored on the way, and the head."""
        unsaved = spent = 0.0
        before = first
        for done in batches:
            unsaved += (done - before) * SECONDS_EACH
            spent += (done - before) * SECONDS_EACH
            before = done
            quarter = done >= len(wanted) - 1 or unsaved * QUARTER >= spent
            if done < len(wanted) and unsaved >= WORTH and quarter:
                self.layers.add(wanted[:done])
                unsaved = 0.0
        self.layers.add(wanted)


@pytest.fixture
def home() -> Iterator[Path]:
    """A state directory of the test's own."""
    memory = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="lbl", dir=memory if memory.is_dir() else None))
    yield directory
    shutil.rmtree(directory)


def write_sql(folder: Path, number: int, text: str) -> Path:
    """A file of SQL with a migration."""
    file = folder / f"V{number}__step.sql"
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
    return file


def write_alembic(folder: Path, number: int, text: str) -> Path:
    """The same as a revision of Alembic."""
    return alembic_revision(folder, f"r{number}", f"r{number - 1}" if number > 1 else None, *text.splitlines())


WRITERS = {"sql:db": write_sql, "alembic:alembic.ini": write_alembic}


def write(entry: str, folder: Path, content: Content) -> None:
    """Make the folder have exactly these migrations."""
    files = {WRITERS[entry](folder, number, text) for number, text in enumerate(content, 1)}
    for file in folder.iterdir():
        if file.is_file() and file not in files:
            file.unlink()


def migration(dice: random.Random, number: int) -> str:
    """A migration that nobody wrote before."""
    mark = f"{number}-{dice.getrandbits(40):010x}"
    first = "CREATE TABLE applied (n serial, mark text);\n" if number == 1 else ""
    return f"{first}INSERT INTO applied (mark) VALUES ('{mark}');\n"


def edited(dice: random.Random, content: Content, seen: list[Content]) -> Content:
    """What a day's work or a switch of branches makes of the folder."""
    act = dice.choice(["append", "append", "edit", "edit last", "drop last", "insert", "switch"])
    place = dice.randrange(len(content))
    if act == "append":
        return (*content, migration(dice, len(content) + 1))
    if act == "switch":
        return dice.choice(seen)
    if act == "drop last" and len(content) > 1:
        return content[:-1]
    if act == "insert":
        return (*content[: place + 1], migration(dice, place + 2), *content[place + 1 :])
    where = len(content) - 1 if act == "edit last" else place
    return (*content[:where], migration(dice, where + 1), *content[where + 1 :])


def build(made: Rig, entry: str, root: Path) -> tuple[Line, list[str]]:
    """Have the base of a step; what was asked of the engine, and the keys of its layers."""
    bases = Bases(made.provider, name=lambda: "base", rebuild=False)
    line = Line(bases, SECONDS_EACH)
    steps = [parse(entry, root=root)]
    client: Any = line
    Builder(client, Progress(None), root, None).ensure(steps)
    return line, Plan.of(steps).keys(made.provider.root_key)


def marks(made: Rig, key: str) -> list[str]:
    """What the base with this key has applied."""
    at = made.provider.cached(key)
    assert at is not None
    compute = made.provider.start("look", at)
    try:
        with connect(compute.endpoint) as conn:
            return [mark for (mark,) in conn.execute("SELECT mark FROM applied ORDER BY n")]
    finally:
        compute.discard(disposable=True)


def check(entry: str, folder: Path, home: Path, root: Path, *, edits: int) -> None:
    """After each edit the build begins at the longest cached ancestor, and stores the head and sparse checkpoints."""
    dice = random.Random(SEED)
    model = Model()
    content: Content = tuple(migration(dice, number) for number in range(1, MIGRATIONS + 1))
    seen = [content]
    for number in range(edits + 1):
        write(entry, folder, content)
        with rig(home) as made:
            line, keys = build(made, entry, root)
            expected = model.start(content)
            assert line.first == expected, (SEED, number)
            if expected is not None:
                model.built(content, expected, line.batches)
            there = {count for count in range(1, len(keys)) if made.provider.cached(keys[count])}
            assert there == {count for count in range(1, len(keys)) if content[:count] in model.layers}, (SEED, number)
            assert marks(made, keys[-1]) == [text.rsplit("'", 2)[1] for text in content], (SEED, number)
        _make_room(home, model, keys, content)
        seen.append(content)
        content = edited(dice, content, seen)


@pytest.mark.slow
def test_exactly_the_right_layers(home: Path, tmp_path: Path) -> None:
    """Of a folder of SQL."""
    folder = tmp_path / "db"
    folder.mkdir()
    check("sql:db", folder, home, tmp_path, edits=EDITS)


@pytest.mark.slow
def test_exactly_the_right_layers_of_alembic(home: Path, tmp_path: Path) -> None:
    """Of an Alembic project; that is asked for its plan in a process of its own, so in fewer rounds."""
    check("alembic:alembic.ini", alembic_project(tmp_path), home, tmp_path, edits=min(EDITS, 3 + EDITS // 10))


def _make_room(home: Path, model: Model, keys: list[str], content: Content) -> None:
    """Take the layers of old contents out of the cache when there are too many."""
    ours = {key: content[:count] for count, key in enumerate(keys)}
    layers = stored(home / "layers")
    if len(layers) > MOST_LAYERS:
        model.layers = {ours[layer.key] for layer in layers if ours.get(layer.key)}
        for layer in layers:
            if layer.key not in ours:
                assert remove(layer)
