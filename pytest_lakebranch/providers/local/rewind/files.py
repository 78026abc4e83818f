"""Putting files back: blocks, whole files, directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local import catalog_cache
from pytest_lakebranch.providers.local.rewind.knowledge import SealedFiles
from pytest_lakebranch.providers.local.rewind.manifest import (
    BLOCK,
    NEVER_PUT_BACK,
    Manifest,
    Relation,
    folder_of,
    parsed,
    segment_name,
)
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError

SEGMENT_BLOCKS = 131072
"""RELSEG_SIZE: blocks in a file of a relation; the next ones are in the next file."""
SEGMENT = SEGMENT_BLOCKS * BLOCK
CHUNK = 1 << 20
MAPS = "pg_filenode.map"
"""Which files the mapped catalogs are in: rewritten as a whole, logged without naming blocks (relmapper.c)."""


@dataclass(slots=True)
class Files:
    """A branch's data directory, whose server neither reads nor writes it meanwhile; ``root`` is a descriptor of it. To
    be used in a ``with``: directories are opened once.
    """

    root: int
    sealed: SealedFiles
    manifest: Manifest
    _folders: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        while self._folders:
            os.close(self._folders.popitem()[1])

    def _folder(self, folder: str) -> int:
        handle = self._folders.get(folder)
        if handle is None:
            handle = self._folders[folder] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.root)
        return handle

    @property
    def has_tablespaces(self) -> bool:
        """Whether the server has tablespaces other than its own two."""
        return bool(os.listdir(self._folder("pg_tblspc")))  # noqa: PTH208  (a descriptor)

    def put_back_blocks(self, relation: Relation, blocks: Iterable[int]) -> None:
        """Put back blocks of a relation's main fork, and block 0 in any case; and its size.

        An SP-GiST index changes its first block without saying so (SpGistUpdateMetaPage, spgutils.c).
        """
        database, number = relation
        sizes = self.manifest.forks(relation)[""]
        by_segment: dict[int, list[int]] = {segment: [] for segment in range(len(sizes))}
        by_segment[0].append(0)
        for block in blocks:
            by_segment.setdefault(block // SEGMENT_BLOCKS, []).append(block % SEGMENT_BLOCKS)
        for segment, wanted in by_segment.items():
            if segment < len(sizes):
                self._segment(folder_of(database), segment_name(number, "", segment), sizes[segment], wanted)

    def put_back_fork(self, relation: Relation, fork: str) -> None:
        """Put back a whole fork, or remove it if it was not there."""
        database, number = relation
        folder = folder_of(database)
        sizes = self.manifest.forks(relation).get(fork, [])
        for segment, size in enumerate(sizes):
            self._segment(folder, segment_name(number, fork, segment), size, None)
        if not sizes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{number}{fork}", dir_fd=self._folder(folder))

    def has_outgrown(self, relation: Relation) -> bool:
        """Whether a relation has more segments than it had."""
        return len(self._sizes(relation)) > len(self.manifest.forks(relation)[""])

    def added(self, relation: Relation) -> int:
        """By how many blocks a relation's main fork is longer than it was."""
        return max(0, sum(self._sizes(relation)) // BLOCK - self.manifest.blocks(relation))

    def _sizes(self, relation: Relation) -> list[int]:
        """The present sizes of the segments of a relation's main fork."""
        database, number = relation
        folder, sizes = self._folder(folder_of(database)), list[int]()
        with contextlib.suppress(FileNotFoundError):
            while not sizes or sizes[-1] == SEGMENT:
                sizes.append(_size(segment_name(number, "", len(sizes)), folder))
        return sizes

    def _segment(self, folder: str, name: str, size: int, blocks: list[int] | None) -> None:
        """Make one file equal to the sealed one: at ``blocks`` and in size; None means everywhere."""
        handle = self._opened(folder, name)
        try:
            now = os.fstat(handle).st_size
            pieces = _chunks(size) if blocks is None or now < size else _runs(blocks, size)
            for offset, count in pieces:
                _write(handle, self.sealed.read(f"{folder}/{name}", count, offset), offset)
            if now > size:  # files also grow without the log saying so
                os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def _opened(self, folder: str, name: str) -> int:
        try:
            return os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=self._folder(folder))
        except FileNotFoundError:
            return os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CREAT, 0o600, dir_fd=self._folder(folder))

    def grown(self, folder: str) -> set[Relation]:
        """Relations of this directory whose main fork is longer than it was, also by a segment."""
        sealed = self.manifest.folders[folder]
        with os.scandir(self._folder(folder)) as entries:
            longer = [each.name for each in entries if each.stat().st_size > sealed.get(each.name, 0)]
        found = {found[0] for name in longer if (found := parsed(folder, name)) and not found[1]}
        return found & self.manifest.relations.keys()

    def damaged(self, folders: Iterable[str], *, sizes: bool) -> dict[str, set[str]]:
        """For each directory the files that are missing, the map of its catalogs, and with ``sizes`` those of another
        size: needed where files were cut, which names no block.
        """
        return {folder: self._damaged(folder, sizes=sizes) for folder in folders}

    def _damaged(self, folder: str, *, sizes: bool) -> set[str]:
        sealed, handle = self.manifest.folders[folder], self._folder(folder)
        there = set(os.listdir(handle))  # noqa: PTH208  (a descriptor)
        changed = {name for name in sealed.keys() & there if sizes and _size(name, handle) != sealed[name]}
        return sealed.keys() - there | changed | {MAPS}

    def put_back_folders(self, damaged: dict[str, set[str]], caches: dict[str, bytes]) -> None:
        """Put these files back whole and remove those that were not there; databases that were made are removed, and
        caches of the catalog are as given. Raises UnprovenError when a database is missing.
        """
        self._remove_databases()
        for folder, names in damaged.items():
            self._remove_others(folder)
            for name in names:
                self._segment(folder, name, self.manifest.folders[folder][name], None)
            self._put_back_cache(folder, caches.get(folder))

    def _remove_databases(self) -> None:
        there = {f"base/{name}" for name in os.listdir(self._folder("base"))}  # noqa: PTH208  (a descriptor)
        for folder in there - self.manifest.folders.keys():
            remove_tree(Path(f"/proc/self/fd/{self.root}", folder))
        if not self.manifest.folders.keys() <= {*there, "global"}:
            raise UnprovenError("a database of the base was dropped")

    def _remove_others(self, folder: str) -> None:
        handle = self._folder(folder)
        there = set(os.listdir(handle))  # noqa: PTH208  (a descriptor)
        for name in (
            there - self.manifest.folders[folder].keys() - NEVER_PUT_BACK - {catalog_cache.KEPT, catalog_cache.NAME}
        ):
            os.unlink(name, dir_fd=handle)

    def _put_back_cache(self, folder: str, content: bytes | None) -> None:
        handle = self._folder(folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(catalog_cache.NAME, dir_fd=handle)
        if content is not None:
            made = os.open(catalog_cache.NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=handle)
            try:
                _write(made, content, 0)
            finally:
                os.close(made)


def _size(name: str, folder: int) -> int:
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size


def _chunks(size: int) -> Iterator[tuple[int, int]]:
    for offset in range(0, size, CHUNK):
        yield offset, min(CHUNK, size - offset)


def _runs(blocks: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """Blocks that were there, neighbours together up to a chunk: pairs of offset and length in bytes."""
    first = after = -1
    for block in sorted({block for block in blocks if block * BLOCK < size}):
        if block == after and (after - first) * BLOCK < CHUNK:
            after += 1
            continue
        if first >= 0:
            yield first * BLOCK, (after - first) * BLOCK
        first, after = block, block + 1
    if first >= 0:
        yield first * BLOCK, (after - first) * BLOCK


def _write(handle: int, content: bytes, offset: int) -> None:
    """Write all of it: a full disk may take a part only."""
    left = memoryview(content)
    while left:
        done = os.pwrite(handle, left, offset)
        left, offset = left[done:], offset + done
