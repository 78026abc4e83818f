"""Trees of files: what lies in a data directory, copying it, removing it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CopyFile = Callable[[int, int, int], None]
"""Brings ``size`` bytes from one open file to another, empty one: (source, target, size)."""

THREADS = min(4, os.cpu_count() or 1)
MADE_BY_SERVERS = frozenset({"postmaster.pid", "postmaster.opts", "pg_internal.init"})
"""Files that belong to one life of a server: each start makes or removes them."""
NEVER_COPIED = MADE_BY_SERVERS | {"lakebranch.init"}


@dataclass(frozen=True, slots=True)
class Entry:
    """What tells one state of a file from another without reading it. Any write sets the time to now."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Entry:
        """The identity of what ``found`` describes."""
        return cls(found.st_size, found.st_mtime_ns)


CopyOne = Callable[[str, str, Entry, CopyFile], None]


@dataclass(frozen=True, slots=True)
class Tree:
    """The directories (parents first) and files of a data directory, by path relative to it."""

    directories: tuple[str, ...]
    files: dict[str, Entry]

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(entry.size for entry in self.files.values())


def scan(root: Path) -> Tree:
    """What lies under ``root`` and belongs into a copy of it. Files that vanish meanwhile are left out."""
    directories: list[str] = []
    files: dict[str, Entry] = {}
    for entry, relative in _walk(str(root), ""):
        if entry.is_dir(follow_symlinks=False):
            directories.append(relative)
        elif entry.name not in NEVER_COPIED:
            with contextlib.suppress(FileNotFoundError):
                files[relative] = Entry.of(entry.stat(follow_symlinks=False))
    return Tree(tuple(directories), files)


def _walk(directory: str, relative: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    try:
        found = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in found:
        path = f"{relative}{entry.name}"
        yield entry, path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{path}/")


def copy_tree(source: Path, target: Path, tree: Tree, copy: CopyFile, *, live: bool = False) -> None:
    """Make ``target``, a copy of ``tree`` as it lies in ``source``, by several threads.

    A copied file has the time of its original, so that one written to later is known by its time.
    """
    target.mkdir(mode=0o700)
    fill(source, target, tree, copy, live=live)


def fill(source: Path, target: Path, tree: Tree, copy: CopyFile, *, live: bool = False) -> None:
    """As :func:`copy_tree`, into an empty directory that exists.

    With ``live`` a running server owns the source: files may vanish meanwhile.
    """
    for directory in tree.directories:
        os.mkdir(f"{target}/{directory}", 0o700)  # noqa: PTH102  (pathlib costs more than the call, here and below)
    copy_files(source, target, tree, list(tree.files), copy, live=live)


def copy_files(  # noqa: PLR0913  (the last two say how)
    source: Path, target: Path, tree: Tree, names: Sequence[str], copy: CopyFile, *, live: bool = False
) -> None:
    """Copy ``names`` of ``tree``, over what is there; by several threads where there are many."""
    one = unless_gone(copy_file) if live else copy_file

    def share(part: Sequence[str]) -> None:
        for name in part:
            one(f"{source}/{name}", f"{target}/{name}", tree.files[name], copy)

    if len(names) < 64 or THREADS == 1:
        share(names)
        return
    ordered = sorted(names, key=lambda name: -tree.files[name].size)  # the large ones apart from each other
    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(share, ordered[first::THREADS]) for first in range(THREADS)]:
            done.result()


def copy_file(source: str, target: str, entry: Entry, copy: CopyFile) -> None:
    """Make ``target`` equal to ``source`` in content, size and time."""
    origin = os.open(source, os.O_RDONLY) if entry.size else -1
    try:
        into = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            if entry.size:
                copy(origin, into, entry.size)
            os.utime(into, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(into)
    finally:
        if entry.size:
            os.close(origin)


def unless_gone(copy: CopyOne) -> CopyOne:
    """As ``copy``, passing over files that a running server has removed since they were listed."""

    def copy_what_is_there(source: str, target: str, entry: Entry, way: CopyFile) -> None:
        try:
            copy(source, target, entry, way)
        except FileNotFoundError:
            if os.path.exists(source):  # noqa: PTH110
                raise

    return copy_what_is_there
