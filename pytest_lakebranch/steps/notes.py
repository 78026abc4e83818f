"""What was worked out about files, remembered until one of them changes.

A note holds the SHA-256 of every file it depends on.  A file that has the size, the times and the inode that it had is
taken to be unchanged, without reading it, unless it was changed so shortly before the note was made that its times
could not tell; otherwise its content decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import ConfigError

FORMAT = 1
COARSE = 2.0
"""Seconds by which a file must be older than a note: the coarsest times that file systems keep (FAT)."""
TRIES = 3
"""How often something is worked out while its files change."""
STALE = 86400.0
"""Seconds after which a note that still holds is written again: one that nobody wants any more is deleted some day."""
BIG = 1 << 20
"""Bytes from which looking a digest up is quicker than computing it."""


@dataclass(frozen=True, slots=True)
class Note:
    """What was worked out (of JSON's types), and the digests of the files it depends on."""

    value: Any
    digests: dict[str, str]


@dataclass(frozen=True, slots=True)
class Notes:
    """Notes in a directory that all processes of the machine share; without one, in memory."""

    directory: Path | None = None
    _memory: dict[str, str] = field(default_factory=dict, compare=False)

    def remember(self, key: str, work: Callable[[], tuple[Any, Iterable[Path], Iterable[str]]]) -> Note:
        """The value for ``key``: as noted if it still holds, else as ``work`` finds it now.

        ``work`` returns the value, the files and directories it depends on, and the names of environment variables it
        depends on. One process works at a time; the others wait for its note.
        """
        found = self._valid(key)
        if found is None:
            with self._alone(key):
                found = self._valid(key) or self._make(key, work)
        return found

    def last(self, key: str) -> Any:
        """The value that was noted last for ``key``, whether it still holds or not; None when there is none."""
        try:
            note = json.loads(self._read(key))
            return note["value"] if note["format"] == FORMAT else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def digest(self, path: Path, label: str) -> str:
        """SHA-256 of a file's content, read once for all processes if it is big; ConfigError when it cannot be read."""
        try:
            if path.stat().st_size < BIG:
                return digest(path, label)
        except OSError:
            return digest(path, label)
        known = self.remember(f"digest {path}", lambda: (None, [path], ())).digests[str(path)]
        return known or digest(path, label)

    def _make(self, key: str, work: Callable[[], tuple[Any, Iterable[Path], Iterable[str]]]) -> Note:
        """Work, again if a file changed meanwhile, and note it; of files that go on changing nothing is noted."""
        for _ in range(TRIES):
            began = time.time()
            value, paths, variables = work()
            digests = {str(path): _content(path) for path in paths}
            stamps = {path: _stamp(path) for path in digests}
            settled = all(stamp is None or stamp[2] / 1e9 <= began for stamp in stamps.values())
            if settled:
                break
        note = {
            "format": FORMAT,
            "key": key,
            "value": value,
            "noted": began,
            "stamps": stamps,
            "digests": digests,
            "variables": {name: _of_variable(name) for name in variables},
        }
        if settled:
            self._write(key, json.dumps(note))
        return Note(value, digests)

    def _valid(self, key: str) -> Note | None:
        try:
            note = json.loads(self._read(key))
            if note["format"] != FORMAT or note["key"] != key:
                return None
            same = all(_of_variable(name) == was for name, was in note["variables"].items())
            began = time.time()
            doubtful = [path for path, stamp in note["stamps"].items() if not _is_untouched(path, stamp, note["noted"])]
            if not same or any(_content(Path(path)) != note["digests"][path] for path in doubtful):
                return None
            if doubtful or began - note["noted"] > STALE:
                fresh = {path: _stamp(path) for path in note["stamps"]}
                self._write(key, json.dumps({**note, "noted": began, "stamps": fresh}))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Note(note["value"], note["digests"])

    def _alone(self, key: str) -> AbstractContextManager[object]:
        if self.directory is None:
            return nullcontext()
        import filelock

        self.directory.mkdir(mode=0o700, exist_ok=True)
        return filelock.FileLock(self._file(self.directory, key).with_suffix(".lock"), mode=0o600, thread_local=False)

    def _read(self, key: str) -> str:
        return self._memory[key] if self.directory is None else self._file(self.directory, key).read_text()

    def _write(self, key: str, text: str) -> None:
        if self.directory is None:
            self._memory[key] = text
            return
        file = self._file(self.directory, key)
        written = file.with_suffix(f".{os.getpid()}")
        written.write_text(text)
        written.replace(file)

    @staticmethod
    def _file(directory: Path, key: str) -> Path:
        return directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def digest(path: Path, label: str) -> str:
    """SHA-256 of a file's content, read in pieces; ConfigError naming ``label`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{label}: {path} cannot be read: {error.strerror}.") from error


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  (five times as quick as a Path, and there may be thousands)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _is_untouched(path: str, stamp: list[int] | None, noted: float) -> bool:
    """Whether a file is certainly what it was, without reading it."""
    return stamp is not None and stamp == _stamp(path) and max(stamp[1], stamp[2]) / 1e9 < noted - COARSE


def _content(path: Path) -> str:
    """The digest of a file, or of the names in a directory; empty when there is neither."""
    try:
        if path.is_dir():
            names = sorted(entry.name for entry in os.scandir(path) if entry.name != "__pycache__")
            return hashlib.sha256(json.dumps(names).encode()).hexdigest()
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _of_variable(name: str) -> str:
    value = os.environ.get(name)
    return "" if value is None else hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()
