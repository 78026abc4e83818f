"""The cache of sealed layers, shared by all runs of the machine.

    LAYERS/KEY.lock              held by the process that builds KEY
    LAYERS/KEY/layer.json        the commit mark: which generation is valid, and what lies in it
    LAYERS/KEY/GENERATION/       a sealed data directory

A rebuild adds a generation and replaces the mark at once; who uses the older one holds a shared lock (flock) on its
directory and keeps it. A generation without mark or user is removed by :meth:`Layers.sweep`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.kept import pinned
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.processes import LINUX, boot_id
from pytest_lakebranch.providers.local.disk import translated
from pytest_lakebranch.providers.local.storage.base import Sealed, Storage
from pytest_lakebranch.providers.local.storage.tree import scan
from pytest_lakebranch.state import State

FORMAT = 2
"""Version of what lies in a layer; another one counts as no layer."""
MARK = "layer.json"


@dataclass(slots=True)
class Layers:
    """The cache, as one provider sees it. Locks it took on layers are held until :meth:`close`."""

    directory: Path
    storage: Storage
    binaries: Binaries
    _locks: dict[Path, int] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)
    """For ``_locks``: bases are committed by several threads, and while others close."""

    @contextlib.contextmanager
    def building(self, key: str) -> Iterator[None]:
        """Exclude every other builder of ``key``; the system lets go when the holder dies."""
        import filelock

        with filelock.FileLock(self.directory / f"{key}.lock", mode=0o600, thread_local=False):
            yield

    def find(self, key: str) -> Sealed | None:
        """The layer ``key``, locked against removal; a damaged one is removed and counts as none."""
        mark = _read_mark(self.directory / key)
        if mark is None:
            return None
        data = self.directory / key / mark["generation"]
        if not self._lock(data):
            return None
        tree = scan(data)
        if {name: entry.size for name, entry in tree.files.items()} == mark["files"]:
            with contextlib.suppress(OSError):  # when it was last used; a replacement just now is as good
                os.utime(self.directory / key / MARK)
            return Sealed(key, data, tree)
        self._unlock(data)
        self._remove_damaged(key, mark["generation"])
        return None

    def _remove_damaged(self, key: str, generation: str) -> None:
        """Unless somebody is building the key just now: then the mark may be a new one already."""
        import filelock

        with contextlib.suppress(filelock.Timeout), filelock.FileLock(self.directory / f"{key}.lock", timeout=0):
            mark = _read_mark(self.directory / key)
            if mark is not None and mark["generation"] == generation:
                (self.directory / key / MARK).unlink()
        self.sweep(key)

    def forget(self, sealed: Sealed) -> None:
        """Whoever asks for the layer from now on builds it anew; nothing to forget is fine."""
        if sealed.data.parent.parent == self.directory:
            self._remove_damaged(sealed.key, sealed.data.name)

    def commit(self, key: str, data: Path) -> Sealed:
        """Move the stopped ``data`` into the cache as ``key`` and mark it valid; the mark is the last thing written.

        Everything is on disk before the mark is: after a loss of power there is a whole layer or none.
        """
        with translated(self.directory, f"storing layer {key[:12]}", BaseError):
            generation = self.directory / key / uuid.uuid4().hex[:12]
            self._lock(data)
            try:
                _move(data, generation)
                self._moved(data, generation)
                tree = scan(generation)
                sync(generation)
                self._write_mark(generation, tree_facts=_facts(tree.size, {n: e.size for n, e in tree.files.items()}))
            except BaseException:
                self._unlock(generation)
                self._unlock(data)
                self.storage.remove(generation)
                raise
        self.sweep(key)
        return Sealed(key, generation, tree)

    def _write_mark(self, generation: Path, tree_facts: dict[str, Any]) -> None:
        facts = {
            "format": FORMAT,
            "key": generation.parent.name,
            "generation": generation.name,
            "postgres": self.binaries.version,
            "origin": self.binaries.origin,
            "boot": boot_id(),
            "created": time.time(),
            **tree_facts,
        }
        mark = generation.parent / MARK
        written = mark.with_suffix(f".{generation.name}")
        try:
            with written.open("w") as file:
                json.dump(facts, file)
                file.flush()
                os.fsync(file.fileno())
            written.replace(mark)
        finally:
            written.unlink(missing_ok=True)

    def sweep(self, key: str) -> None:
        """Remove generations of ``key`` that are not marked valid and that nobody uses."""
        sweep(self.directory / key, self.storage)

    def _lock(self, data: Path) -> bool:
        """Take a shared lock on a directory; False when it is gone. Whoever inspects or removes it lets go soon."""
        with self._changing:
            if data in self._locks:
                return True
        try:
            handle = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        fcntl.flock(handle, fcntl.LOCK_SH)
        if not data.exists():  # it was removed while we waited
            os.close(handle)
            return False
        with self._changing:
            if self._locks.setdefault(data, handle) != handle:  # somebody else was at the same
                os.close(handle)
        return True

    def _moved(self, data: Path, generation: Path) -> None:
        with self._changing:
            if data not in self._locks:
                raise BaseError("the run is ending: no more layers are stored.")
            self._locks[generation] = self._locks.pop(data)

    def _unlock(self, data: Path) -> None:
        with self._changing:
            handle = self._locks.pop(data, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        """Let go of all layers; they stay in the cache, but for those that were replaced meanwhile."""
        with self._changing:
            held = list(self._locks)
        for data in held:
            self._unlock(data)
        for key in {data.parent.name for data in held}:
            self.sweep(key)


def _move(data: Path, generation: Path) -> None:
    """Somebody who tidies up may just remove the directory of the key, which is empty."""
    for _ in range(3):
        generation.parent.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            data.rename(generation)
            return
    data.rename(generation)


def sweep(folder: Path, storage: Storage) -> None:
    """Remove generations of the layer in ``folder`` that are not marked valid and that nobody uses."""
    mark = _read_mark(folder)
    for entry in list(os.scandir(folder)) if folder.is_dir() else ():
        if entry.is_dir(follow_symlinks=False) and (mark is None or entry.name != mark["generation"]):
            _remove_unused(Path(entry.path), storage)
    with contextlib.suppress(OSError):  # not empty: somebody uses a generation, or there is a valid one
        folder.rmdir()


def _remove_unused(generation: Path, storage: Storage) -> None:
    """A kept branch may stand on it: its note is there before the run that leaves it lets go of the lock."""
    try:
        handle = os.open(generation, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if generation not in pinned(State(generation.parents[2])):
            storage.remove(generation)
    except BlockingIOError:
        return
    finally:
        os.close(handle)


def _read_mark(folder: Path) -> dict[str, Any] | None:
    try:
        mark: dict[str, Any] = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return None
    return mark if _is_mark(mark) else None


def _is_mark(mark: object) -> bool:
    """Whether this can be what :meth:`Layers.commit` wrote, in the present format."""
    if not isinstance(mark, dict) or mark.get("format") != FORMAT or not isinstance(mark.get("files"), dict):
        return False
    generation = mark.get("generation")
    return isinstance(generation, str) and generation.isalnum()


def _facts(size: int, files: dict[str, int]) -> dict[str, Any]:
    return {"bytes": size, "files": files}


def sync(directory: Path) -> None:
    """Bring everything that was written to the file system of ``directory`` to its disk."""
    if not LINUX:
        os.sync()
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(handle)
