"""Putting files back: blocks, whole files, directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local import catalog_cache
from pytest_lakebranch.providers.local.rewind.knowledge import SealedFiles
from pytest_lakebranch.providers.local.rewind.manifest import (
    NEVER_PUT_BACK,
    Manifest,
    Relation,
    folder_of,
    segment_name,
)
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError

BLOCK = 8192
SEGMENT_BLOCKS = 131072
"""RELSEG_SIZE: blocks in a file of a relation; the next ones are in the next file."""
SEGMENT = SEGMENT_BLOCKS * BLOCK
CHUNK = 1 << 20
MAPS = "pg_filenode.map"
"""Which files the mapped catalogs are in: rewritten as a whole, logged without naming blocks (relmapper.c)."""


@dataclass(frozen=True, slots=True)
class Files:
    """The data directory ``root`` of one branch, whose server neither reads nor writes it meanwhile."""

    root: str
    sealed: SealedFiles
    manifest: Manifest

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
                self._segment(f"{folder_of(database)}/{segment_name(number, '', segment)}", sizes[segment], wanted)

    def put_back_fork(self, relation: Relation, fork: str) -> None:
        """Put back a whole fork, or remove it if it was not there."""
        database, number = relation
        folder = folder_of(database)
        sizes = self.manifest.forks(relation).get(fork, [])
        for segment, size in enumerate(sizes):
            self._segment(f"{folder}/{segment_name(number, fork, segment)}", size, None)
        if not sizes:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.root}/{folder}/{number}{fork}")  # noqa: PTH108  (for each touched relation)

    def has_outgrown(self, relation: Relation) -> bool:
        """Whether a relation has more segments than it had."""
        database, number = relation
        sizes = self.manifest.forks(relation)[""]
        path = f"{self.root}/{folder_of(database)}/{segment_name(number, '', len(sizes) - 1)}"
        beyond = f"{self.root}/{folder_of(database)}/{segment_name(number, '', len(sizes))}"
        return os.stat(path).st_size >= SEGMENT and os.path.exists(beyond)  # noqa: PTH110, PTH116  (as above)

    def _segment(self, path: str, size: int, blocks: list[int] | None) -> None:
        """Make one file equal to the sealed one: at ``blocks`` and in size; None means everywhere."""
        handle = os.open(f"{self.root}/{path}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            now = os.fstat(handle).st_size
            pieces = _chunks(size) if blocks is None or now < size else _runs(blocks, size)
            for offset, count in pieces:
                _write(handle, self.sealed.read(path, count, offset), offset)
            if now > size:  # files also grow without the log saying so
                os.ftruncate(handle, size)
        finally:
            os.close(handle)

    def put_back_folders(self, folders: set[str], caches: dict[str, bytes], *, sizes: bool) -> None:
        """Give directories the files they had: others removed, missing ones put back whole, and the maps of the
        catalogs; databases that were made are removed, and caches of the catalog are as given.

        With ``sizes`` files of another size are put back whole too: needed where files were cut, which names no block.
        Raises UnprovenError when a database is missing.
        """
        self._remove_databases()
        for folder in folders & self.manifest.folders.keys():
            self._put_back_folder(folder, sizes=sizes)
            self._put_back_cache(folder, caches.get(folder))

    def _remove_databases(self) -> None:
        there = {f"base/{name}" for name in os.listdir(f"{self.root}/base")}  # noqa: PTH208  (on every DDL rewind)
        for folder in there - self.manifest.folders.keys():
            remove_tree(Path(self.root, folder))
        if not self.manifest.folders.keys() <= {*there, "global"}:
            raise UnprovenError("a database of the base was dropped")

    def _put_back_folder(self, folder: str, *, sizes: bool) -> None:
        sealed = self.manifest.folders[folder]
        now = set(os.listdir(f"{self.root}/{folder}"))  # noqa: PTH208  (on every DDL rewind)
        for name in now - sealed.keys() - NEVER_PUT_BACK - {catalog_cache.KEPT, catalog_cache.NAME}:
            os.unlink(f"{self.root}/{folder}/{name}")  # noqa: PTH108
        wrong = sealed.keys() - now | {MAPS}
        if sizes:
            wrong |= {
                entry.name for entry in os.scandir(f"{self.root}/{folder}") if self._has_other_size(entry, sealed)
            }
        for name in wrong:
            self._segment(f"{folder}/{name}", sealed[name], None)

    @staticmethod
    def _has_other_size(entry: os.DirEntry[str], sealed: dict[str, int]) -> bool:
        return entry.name in sealed and entry.stat(follow_symlinks=False).st_size != sealed[entry.name]

    def _put_back_cache(self, folder: str, content: bytes | None) -> None:
        path = Path(self.root, folder, catalog_cache.NAME)
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(content)


def _chunks(size: int) -> Iterator[tuple[int, int]]:
    for offset in range(0, size, CHUNK):
        yield offset, min(CHUNK, size - offset)


def _runs(blocks: Iterable[int], size: int) -> Iterator[tuple[int, int]]:
    """Blocks that were there, neighbours together: pairs of offset and length in bytes."""
    first = after = -1
    for block in sorted({block for block in blocks if block * BLOCK < size}):
        if block == after:
            after += 1
            continue
        if first >= 0:
            yield first * BLOCK, (after - first) * BLOCK
        first, after = block, block + 1
    if first >= 0:
        yield first * BLOCK, (after - first) * BLOCK


def _write(handle: int, content: bytes, offset: int) -> None:
    """Write all of it: a full disk may take a part only."""
    done = 0
    while done < len(content):
        done += os.pwrite(handle, content[done:], offset + done)
