"""The order of the checks, and of the work: each line answers a hazard of tests/contract/test_rewind_*.py."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_lakebranch.providers.local.clients import Clients
from pytest_lakebranch.providers.local.processes import Footprint
from pytest_lakebranch.providers.local.rewind import buffers, gate, wal
from pytest_lakebranch.providers.local.rewind.files import Files
from pytest_lakebranch.providers.local.rewind.knowledge import Knowledge
from pytest_lakebranch.providers.local.rewind.manifest import folder_of
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.rewind.wal import Touched
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.providers.local.storage.base import Sealed

LARGEST_WHOLE = 64 << 20
"""Bytes of relations that have to be copied as a whole from which a fresh branch is quicker."""


@dataclass(slots=True)
class Rewinder:
    """Puts one branch back. Raises UnprovenError, OSError, psycopg.Error or BranchError; the branch is useless then."""

    server: Server
    clients: Clients
    sealed: Sealed
    knowledge: Knowledge

    def rewind(self, since: int) -> tuple[int, Footprint | None]:
        """Undo everything since a log position at which the branch was in its sealed state; where the log stands then,
        and the server's footprint if the control connection is still open.

        All clients are ended. No client can have connected between the undoing and that position.
        """
        if self.knowledge.refusal is not None:
            raise UnprovenError(self.knowledge.refusal)
        if not self.server.is_alive:
            raise UnprovenError("server died")
        there = Files(self.server.folder, self.knowledge.files, self.knowledge.manifest)
        with gate.closed(self.server, self.clients), there as files:
            if files.has_tablespaces:  # the log does not tell what is in them
                raise UnprovenError("a tablespace was made")
            touched = wal.read(self.server, since, self.knowledge)
            return self._undo(touched, files), self.clients.footprint()

    def _undo(self, touched: Touched, files: Files) -> int:
        self._check_size(touched)
        if touched.aborted:
            self._add_grown(touched, files)
        if touched.files or any(map(files.has_outgrown, (*touched.blocks, *self.knowledge.unlogged))):
            return self._undo_ddl(touched, files)
        sealed, added = self._lengths(touched, files)
        evicted = buffers.evict(self.server, sealed)
        _check_added(added, evicted.beyond)
        self._put_back(touched, files)
        return evicted.position

    def _undo_ddl(self, touched: Touched, files: Files) -> int:
        """The control connection goes too: it remembers a catalog that will not have been."""
        sealed, added = self._lengths(touched, files)
        _check_added(added, buffers.count_beyond(self.server, sealed) if added else 0)
        self.server.control.execute("checkpoint")  # carries out what waits to be unlinked before it comes back
        position = buffers.evict_all(self.server).position
        self.server.close_connection()
        damaged = files.damaged(self._folders(touched), sizes=touched.whole)
        self._check_whole(
            sum(self.knowledge.manifest.folders[place][name] for place in damaged for name in damaged[place])
        )
        files.put_back_folders(damaged, self.sealed.caches or {})
        self._put_back(touched, files)
        return position

    def _add_grown(self, touched: Touched, files: Files) -> None:
        """A page is added before it is known whether the row may be (heap_insert, heapam.c), and no record tells it."""
        for folder in self._folders(touched):
            for relation in files.grown(folder):
                touched.blocks.setdefault(relation, [])

    def _lengths(self, touched: Touched, files: Files) -> tuple[buffers.Blocks, int]:
        """The sealed lengths of what is to be put back, and how many blocks were added to it."""
        manifest = self.knowledge.manifest
        relations = [each for each in {*touched.blocks, *self.knowledge.unlogged} if manifest.forks(each)]
        return {each: manifest.blocks(each) for each in relations}, sum(map(files.added, relations))

    def _folders(self, touched: Touched) -> set[str]:
        """Directories that may have other files than they had."""
        there = self.knowledge.manifest.folders.keys()
        if touched.whole:  # a truncated relation may not have been touched otherwise
            return set(there)
        databases = {0, *self.knowledge.catalogs, *(database for database, _ in touched.blocks)}
        return set(map(folder_of, databases)) & there

    def _put_back(self, touched: Touched, files: Files) -> None:
        for relation, blocks in touched.blocks.items():
            if not self.knowledge.manifest.forks(relation):
                continue  # it was made since, and removed with its directory or in it
            if touched.whole:
                files.put_back_fork(relation, "")
            else:
                files.put_back_blocks(relation, blocks)
            for fork in ("_fsm", "_vm"):  # neither is wholly in the log
                files.put_back_fork(relation, fork)
        for relation in self.knowledge.unlogged:
            for fork in ("", "_fsm", "_vm", "_init"):
                files.put_back_fork(relation, fork)

    def _check_size(self, touched: Touched) -> None:
        """Before anything is done; the sizes of what is missing are known only later."""
        whole = {*self.knowledge.unlogged, *(touched.blocks if touched.whole else ())}
        self._check_whole(
            sum(map(sum, (sizes for each in whole for sizes in self.knowledge.manifest.forks(each).values())))
        )

    @staticmethod
    def _check_whole(size: int) -> None:
        if size > LARGEST_WHOLE:
            raise UnprovenError("too much would have to be copied as a whole")


def _check_added(added: int, in_memory: int) -> None:
    """Raise UnprovenError unless all blocks that were added to relations are in memory, and go with it.

    One that left memory may have come back half: a scan that is broken off leaves pages that it had ordered and not
    read (read_stream.c). They have a number, are not valid, hold what was there before, and neither pg_buffercache nor
    its evicting sees them; in a shorter file, whoever adds that block next fails with "should be empty but is not"
    (RelationAddBlocks, hio.c).
    """
    if in_memory < added:
        raise UnprovenError("added pages did not stay in memory")
