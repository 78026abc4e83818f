"""What is learned once of a sealed state, so that any branch of it can be rewound."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from pytest_lakebranch.providers.local.rewind import requirements
from pytest_lakebranch.providers.local.rewind.manifest import Manifest, Relation
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import MAINTENANCE, Server, session
from pytest_lakebranch.providers.local.storage.base import Sealed
from pytest_lakebranch.providers.local.storage.tree import Entry, Tree

OPEN_FILES = 128
"""How many sealed files are kept open: opening costs more than reading a block."""
FIRST_USER_OID = 16384
"""FirstNormalObjectId (transam.h). A *file* number below it proves nothing: a rewritten catalog has a new one."""
DATABASES = "select oid::int8, datname from pg_database where datallowconn and not datistemplate and datname <> %s"
CATALOGS = """
select pg_relation_filenode(oid)::int8 from pg_class where oid < %s and pg_relation_filenode(oid) is not null"""


@dataclass(slots=True)
class SealedFiles:
    """The files of a sealed tree in ``root``, opened when first wanted.

    Raises UnprovenError when one is not what it was when sealed; what ``damage`` says from then on.
    """

    root: str
    tree: Tree
    damage: str = ""
    _open: OrderedDict[str, int] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, path: str, count: int, offset: int) -> bytes:
        """``count`` bytes of a file that has them."""
        with self._lock:
            handle = self._handle(path)
            content = os.pread(handle, count, offset)
            if len(content) != count or Entry.of(os.fstat(handle)) != self.tree.files[path]:
                raise self._damaged("a sealed file was damaged")
            return content

    def _damaged(self, what: str) -> UnprovenError:
        self.damage = what
        return UnprovenError(what)

    def _handle(self, path: str) -> int:
        handle = self._open.get(path)
        if handle is not None:
            self._open.move_to_end(path)
            return handle
        try:
            handle = self._open[path] = os.open(f"{self.root}/{path}", os.O_RDONLY)
        except FileNotFoundError as error:
            raise self._damaged("a sealed file was removed") from error
        if len(self._open) > OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return handle

    def close(self) -> None:
        """Close all of them; they can be read again."""
        with self._lock:
            while self._open:
                os.close(self._open.popitem()[1])


@dataclass(frozen=True, slots=True)
class Knowledge:
    """``catalogs`` holds, for each database that clients work in, the files of its catalog (shared ones not);
    ``unlogged`` the relations that are put back at every end of a lease. ``refusal`` says why branches of this state
    cannot be rewound at all; None when they can.
    """

    files: SealedFiles
    manifest: Manifest
    refusal: str | None
    catalogs: dict[int, frozenset[int]]
    unlogged: tuple[Relation, ...]

    @property
    def databases(self) -> frozenset[int]:
        """The databases that were there."""
        return frozenset(int(name[5:]) for name in self.manifest.folders if name != "global")


def learn(server: Server, sealed: Sealed) -> Knowledge:
    """Ask a server that was just started on ``sealed``, before any client can have changed anything."""
    manifest, files = Manifest.of(sealed.tree), SealedFiles(str(sealed.data), sealed.tree)
    try:
        requirements.check(server)
        _check_foreign(manifest)
    except UnprovenError as error:
        return Knowledge(files, manifest, str(error), {}, manifest.unlogged)
    databases = server.query(DATABASES, MAINTENANCE)
    catalogs = {oid: _catalogs(server, name) for oid, name in databases}
    return Knowledge(files, manifest, None, catalogs, manifest.unlogged)


def _check_foreign(manifest: Manifest) -> None:
    """Raise UnprovenError where a file may be changed that no record of the log names."""
    if manifest.foreign:
        raise UnprovenError(f"{', '.join(manifest.foreign)}, not made by PostgreSQL itself, cannot be rewound")


def _catalogs(server: Server, database: str) -> frozenset[int]:
    with session(server, database) as ours:
        return frozenset(row[0] for row in ours.execute(CATALOGS, (FIRST_USER_OID,)))
