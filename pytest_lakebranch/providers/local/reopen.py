"""The files of a branch that another process started, brought to a place where they can be used: the original stays
as it is, whether its server runs or has died.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.providers.local.branch_file import BranchFile
from pytest_lakebranch.providers.local.freeze import freeze
from pytest_lakebranch.providers.local.server import SUPERUSER
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.base import Storage
from pytest_lakebranch.providers.local.storage.overlay import is_opaque
from pytest_lakebranch.providers.local.storage.tree import NEVER_COPIED, Entry, copy_file, scan
from pytest_lakebranch.state import PORT, SOCKET_NAME


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A branch's server, if it still runs, as another process than its host sees it."""

    directory: Path
    file: BranchFile

    @property
    def name(self) -> str:
        """See Running."""
        return self.file.name

    @property
    def runs(self) -> bool:
        """Whether a server listens at the branch's socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            try:
                client.connect(f"{self.file.sockets}/{SOCKET_NAME}")
            except OSError:
                return False
        return True

    @property
    def data(self) -> Path:
        """See Running. That of an overlay is found in the mount namespace of its server."""
        if self.file.rung != "overlay":
            return self.directory / "data"
        return Path(f"/proc/{self.file.pid}/root{self.directory}/merged")

    def endpoint(self, dbname: str) -> Endpoint:
        """See Running."""
        return Endpoint(self.file.sockets, PORT, SUPERUSER, dbname)


def bringer(directory: Path, file: BranchFile) -> Callable[[Path, Storage], None]:
    """For :meth:`LocalProvider.adopt`: brings the branch in ``directory`` as it is now, or as it was when its server
    died. The branch is only read; a running one is asked for an online backup.
    """
    server = Elsewhere(directory, file)
    if not server.runs:
        return lambda data, storage: _bring_crashed(server, data, storage)
    if not (server.data / "PG_VERSION").exists():
        raise BranchError(
            f"{file.name} cannot be opened: its files are visible only to its server, which runs in another container."
        )
    return lambda data, storage: _bring_running(server, data, storage)


def _bring_running(server: Elsewhere, data: Path, storage: Storage) -> None:
    import psycopg

    try:
        freeze(server, data, storage=storage)
    except psycopg.Error as error:
        raise BranchError(f"{server.file.name} cannot be opened: its server says: {error}") from error


def _bring_crashed(server: Elsewhere, data: Path, storage: Storage) -> None:
    overlay = server.file.rung == "overlay"
    source = Path(server.file.sealed) if overlay else server.data
    if not source.is_dir():
        what = "the layer that it was made from" if overlay else "its data directory"
        raise BranchError(f"{server.file.name} is damaged: {what} is gone ({source}).")
    storage.copy(source, data, scan(source))
    if overlay:
        put_over(server.directory / "upper", data)
    (data / "postmaster.pid").unlink(missing_ok=True)
    for name in ("PG_VERSION", "global/pg_control"):
        if not (data / name).is_file() or not (data / name).stat().st_size:
            raise BranchError(f"{server.file.name} is damaged: its {name} is missing or empty ({server.directory}).")


def put_over(upper: Path, target: Path) -> None:
    """Make ``target``, a copy of the lower directory, what an overlay with this upper directory shows."""
    for entry in list(os.scandir(upper)):
        found, path = entry.stat(follow_symlinks=False), target / entry.name
        if stat.S_ISCHR(found.st_mode):
            _remove(path)
        elif stat.S_ISDIR(found.st_mode):
            if is_opaque(entry.path):
                remove_tree(path)
            path.mkdir(mode=0o700, exist_ok=True)
            put_over(Path(entry.path), path)
        elif entry.name not in NEVER_COPIED:
            copy_file(entry.path, str(path), Entry.of(found), copying.share_or_copy)


def _remove(path: Path) -> None:
    remove_tree(path) if path.is_dir() else path.unlink(missing_ok=True)
