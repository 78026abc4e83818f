"""What is remembered of files, and when it is worked out anew."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_lakebranch.branches.reaper import reap
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.state import State
from pytest_lakebranch.steps.notes import BIG, TRIES, Notes, digest

OLD = 1_000_000_000


@pytest.fixture(params=["shared", "own"])
def notes(request: pytest.FixtureRequest, tmp_path: Path) -> Notes:
    """Notes in a directory, and in memory."""
    return Notes(tmp_path / "notes" if request.param == "shared" else None)


class Work:
    """Depends on a file, a directory and a variable; counts how often it was done."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.done = 0

    def __call__(self) -> tuple[int, tuple[Path, ...], tuple[str, ...]]:
        self.done += 1
        return self.done, self.paths, ("A_VARIABLE",)


def touched(file: Path) -> None:
    """Another time, the same content."""
    os.utime(file, (OLD, OLD + 5))


def edited(file: Path) -> None:
    """The same time and size, another content: only the time of the change of the inode tells."""
    before = file.stat()
    file.write_text(file.read_text()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda root: None, False),
        (lambda root: touched(root / "a"), False),
        (lambda root: edited(root / "a"), True),
        (lambda root: (root / "a").unlink(), True),
        (lambda root: (root / "b").write_text("new"), True),
        (lambda root: os.environ.update(A_VARIABLE="other"), True),
    ],
)
def test_when_it_is_done_again(
    notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], again: bool
) -> None:
    """Content, names in a directory and variables count; times do not."""
    monkeypatch.setenv("A_VARIABLE", "one")
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("abc")
    work = Work(root / "a", root)
    assert notes.remember("key", work).value == 1
    change(root)
    assert notes.remember("key", work).value == (2 if again else 1)
    assert notes.remember("key", work).value == (2 if again else 1)


def test_digest_of_a_big_file(notes: Notes, tmp_path: Path) -> None:
    """It is that of the content, also after the file has changed."""
    file = tmp_path / "big"
    for content in (b"x" * (BIG + 1), b"y" * (BIG + 1)):
        file.write_bytes(content)
        assert notes.digest(file, "label") == digest(file, "label") == hashlib.sha256(content).hexdigest()


def _digest(directory: Path, file: Path, count: Path) -> str:
    work = Work(file)
    found = Notes(directory).remember("key", lambda: (count.open("a").write("x"), *work()[1:]))
    return found.digests[str(file)]


def test_one_process_works_and_the_others_wait(tmp_path: Path) -> None:
    """However many ask at the same time, it is done once."""
    file = tmp_path / "file"
    file.write_text("content")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        answers = pool.starmap(_digest, [(tmp_path / "notes", file, tmp_path / "count")] * 6)
    assert len(set(answers)) == 1
    assert (tmp_path / "count").read_text() == "x"


def test_files_that_change_while_it_is_done(notes: Notes, tmp_path: Path) -> None:
    """It is done again, and of files that do not come to rest nothing is remembered."""
    file = tmp_path / "file"
    work = Work(file)
    restless = 5

    def writing() -> tuple[int, tuple[Path, ...], tuple[str, ...]]:
        began = time.time()
        while work.done < restless and not (file.exists() and file.stat().st_ctime > began):
            file.write_text(str(time.time_ns()))
        return work()

    assert notes.remember("key", writing).value == TRIES
    assert notes.remember("key", writing).value == restless + 1
    assert notes.remember("key", writing).value == restless + 1


def test_big_file_that_cannot_be_read(notes: Notes) -> None:
    """It is an error, as for a small one, and not an empty digest."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "big"
        file.write_bytes(b"x" * (BIG + 1))
        file.chmod(0)
        user = os.geteuid()
        notes = Notes(None if notes.directory is None else Path(folder) / "notes")
        if user == 0:
            Path(folder).chmod(0o777)
            os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match=r"^label: .*big cannot be read: Permission denied\."):
                notes.digest(file, "label")
        finally:
            os.seteuid(user)


def test_notes_that_nobody_uses_are_deleted(tmp_path: Path) -> None:
    """A month later; one that is used is renewed."""
    state = State.at(tmp_path / "home").ensure()
    file = tmp_path / "file"
    file.write_text("content")
    notes = Notes(state.notes)
    for key in ("used", "unused"):
        notes.remember(key, Work(file))
    for note in state.notes.iterdir():
        told = note.read_text()
        if told:
            note.write_text(json.dumps({**json.loads(told), "noted": OLD}))
        os.utime(note, (OLD, OLD))
    assert notes.remember("used", lambda: pytest.fail("it was forgotten")).value == 1
    reap(state)
    assert {json.loads(note.read_text())["key"] for note in state.notes.glob("*.json")} == {"used"}
