"""The servers of one provider: started on a branch's files, in socket directories of their own."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pytest_lakebranch.config import Settings
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.providers.local import catalog_cache
from pytest_lakebranch.providers.local.launch import Launcher
from pytest_lakebranch.providers.local.server import Server, server_command
from pytest_lakebranch.providers.local.server_settings import flags
from pytest_lakebranch.providers.local.storage.base import Place


@dataclass(slots=True)
class Servers:
    """Starts servers with the run's settings; ``sockets`` is where their socket directories are made."""

    settings: Settings
    binaries: Binaries
    launcher: Launcher
    sockets: Path
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def serve(
        self, name: str, place: Place, *, building: bool = False, caches: dict[str, bytes] | None = None
    ) -> Server:
        """A server on ``place`` that is ready; on failure neither a process nor its socket directory is left."""
        sockets = self.sockets / f"c{next(self._numbers)}"
        sockets.mkdir(mode=0o700)
        try:
            program = self.binaries.program("postgres")
            command = server_command(program, place.data, self._flags(sockets, building=building))
            process = self.launcher.server(command, overlay=place.overlay, log=place.log)
            server = Server(name, process, place, sockets, self.settings.server_settings)
            with stopped_on_failure(server):
                server.wait_ready()
                catalog_cache.give(server.data, caches or {})
                server.open_control()
        except BaseException:
            remove_tree(sockets)
            raise
        return server

    def single(self, data: Path) -> list[str]:
        """The command line of a single-user server on ``data``, without its database."""
        return [self.binaries.program("postgres"), "--single", "-D", str(data), *self._flags(None)]

    def _flags(self, sockets: Path | None, *, building: bool = False) -> list[str]:
        return flags(
            sockets=sockets,
            major=self.binaries.major,
            own_ipc=self.launcher.machine.own_ipc,
            user=self.settings.server_settings,
            building=building,
        )

    def endpoint(self, server: Server) -> Endpoint:
        """Where tests connect."""
        return server.endpoint(self.settings.database, self.settings.user)


@contextlib.contextmanager
def stopped_on_failure(server: Server) -> Iterator[None]:
    """An error in the block stops the server."""
    try:
        yield
    except BaseException:
        server.stop_at_once()
        remove_tree(server.sockets)
        raise
