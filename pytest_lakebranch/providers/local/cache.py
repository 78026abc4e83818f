"""The cache of layers as a person sees it: what is in it, what uses it, and taking layers out of it.

A layer in use, or being built, is never removed: its users hold a lock on its directory, its builder one on its key,
and kept branches name what they stand on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import pinned
from pytest_lakebranch.providers.local.disk import filesystem
from pytest_lakebranch.providers.local.layers import MARK, sweep
from pytest_lakebranch.providers.local.storage.base import Storage
from pytest_lakebranch.providers.local.storage.copy import CopyStorage
from pytest_lakebranch.providers.local.storage.snapshot import SnapshotStorage
from pytest_lakebranch.state import State


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """One layer of the cache. A ``damaged`` one has no mark that can be read; its facts are unknown."""

    key: str
    directory: Path
    generation: str
    bytes: int
    postgres: str
    origin: str
    created: float
    used: float
    in_use: bool
    damaged: bool = False


def stored(layers: Path) -> list[StoredLayer]:
    """All layers, the most recently used first."""
    directories = (Path(entry.path) for entry in os.scandir(layers) if entry.is_dir(follow_symlinks=False))
    found = [_layer(directory) for directory in directories]
    return sorted((layer for layer in found if layer is not None), key=lambda layer: -layer.used)


def _layer(directory: Path) -> StoredLayer | None:
    try:
        used = (directory / MARK).stat().st_mtime
        return _sound(directory, json.loads((directory / MARK).read_text()), used)
    except (OSError, ValueError, KeyError, TypeError):
        return _damaged(directory)


def _sound(directory: Path, mark: dict[str, Any], used: float) -> StoredLayer:
    return StoredLayer(
        directory.name,
        directory,
        str(mark["generation"]),
        int(mark["bytes"]),
        str(mark["postgres"]),
        str(mark["origin"]),
        float(mark["created"]),
        used,
        in_use=_in_use(directory),
    )


def _damaged(directory: Path) -> StoredLayer | None:
    try:
        time = directory.stat().st_mtime
    except FileNotFoundError:  # removed meanwhile
        return None
    return StoredLayer(directory.name, directory, "", 0, "", "", time, time, in_use=_in_use(directory), damaged=True)


def _in_use(directory: Path) -> bool:
    with _building(directory) as alone, _alone(directory) as unused:
        return not (alone and unused)


def remove(layer: StoredLayer) -> bool:
    """Take a layer out of the cache and delete its files; False, and nothing is done, while it is used or built."""
    with _building(layer.directory) as mine, _alone(layer.directory) as unused:
        if not (mine and unused):
            return False
        (layer.directory / MARK).unlink(missing_ok=True)
        _storage(layer.directory).remove(layer.directory)
        return True


def forget(layer: StoredLayer) -> bool:
    """Have the next run build a layer anew; False while it is being built.

    Runs that use it go on with it; its files go when the last of them ends.
    """
    if remove(layer):
        return True
    with _building(layer.directory) as mine:
        if mine:
            (layer.directory / MARK).unlink(missing_ok=True)
        return mine


def tidy(layers: Path) -> None:
    """Remove what builders that were killed left, and what was replaced and is not used any more. Raises OSError."""
    for entry in os.scandir(layers):
        if entry.is_dir(follow_symlinks=False) and not _is_tidy(entry.path):
            folder = Path(entry.path)
            with _building(folder) as mine:
                for path in folder.glob("layer.*") if mine else ():
                    if path.name != MARK:
                        path.unlink(missing_ok=True)
                if mine:
                    sweep(folder, _storage(layers))


def _is_tidy(folder: str) -> bool:
    """Whether there is a mark, one generation, and nothing else."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  (for every layer, when a host starts)
    except FileNotFoundError:
        return True
    return len(names) == 2 and MARK in names


def limit(layers: Path, most: int, *, but: Collection[str] = ()) -> list[StoredLayer]:
    """Remove layers, the least recently used first, until those that are left have no more than ``most`` bytes.

    Those that are in use stay, and those with the keys ``but``. Returns what was removed. Raises OSError.
    """
    total = sum(_size(entry.path) for entry in os.scandir(layers) if entry.is_dir(follow_symlinks=False))
    gone: list[StoredLayer] = []
    for layer in reversed(stored(layers)) if total > most else ():
        if total > most and layer.key not in but and remove(layer):
            gone.append(layer)
            total -= layer.bytes
    return gone


def _size(folder: str) -> int:
    """As the beginning of the mark tells: what follows is long, and of no interest here."""
    try:
        with open(f"{folder}/{MARK}", "rb") as mark:  # noqa: PTH123
            found = re.search(rb'"bytes": (\d+)', mark.read(1024))
    except FileNotFoundError:
        return 0
    return int(found[1]) if found else 0


@contextlib.contextmanager
def _building(directory: Path) -> Iterator[bool]:
    """Whether nobody builds the layer's key; nobody can while the block runs."""
    import filelock

    lock = filelock.FileLock(f"{directory}.lock", timeout=0, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether neither a run nor a kept branch uses any generation; none can begin to while the block runs."""
    with contextlib.ExitStack() as handles:
        try:
            for entry in list(os.scandir(directory)):
                if entry.is_dir(follow_symlinks=False):
                    handle = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY)
                    handles.callback(os.close, handle)
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield not any(path.parent == directory for path in pinned(State(directory.parent.parent)))


def _storage(directory: Path) -> Storage:
    return SnapshotStorage() if filesystem(directory) == "btrfs" else CopyStorage()


def matching(layers: Sequence[StoredLayer], key: str) -> StoredLayer:
    """The layer whose key begins with ``key``; raises BranchError when there is none, or more than one."""
    found = [layer for layer in layers if layer.key.startswith(key)]
    if len(found) == 1:
        return found[0]
    what = "more than one layer has" if found else "no layer has"
    raise BranchError(f"{what} a key that begins with {key!r}. `lakebranch layers ls` lists them.")
