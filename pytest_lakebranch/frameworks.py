"""Makes the connection pools of libraries forget connections to branches that are gone.

Nothing is imported: a library that the application has not loaded has no pool.  Connections that do not lead to a
branch are left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import weakref
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any


def hang_up(address: str, *, but: Collection[int]) -> None:
    """Shut down this process's connections to the server that ``address`` leads to, but the descriptors ``but``.

    Their owners find them closed by the server, and connect again.
    """
    place = str(Path(address).readlink())
    for entry in Path("/dev/fd").iterdir():
        if int(entry.name) not in but:
            with contextlib.suppress(OSError):  # it is closed by now: the listing's own, or one of another thread
                _shut_down(int(entry.name), place)


def _shut_down(descriptor: int, place: str) -> None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family == socket.AF_UNIX and str(connection.getpeername()).startswith(f"{place}/"):
            connection.shutdown(socket.SHUT_RDWR)


class Frameworks:
    """What this process's application may keep connections with.

    ``places``: whatever leads to a branch has one of these in its connection string or parameters.
    """

    def __init__(self, places: tuple[str, ...]) -> None:
        self._places = places
        self._records: weakref.WeakSet[Any] = weakref.WeakSet()
        self._listening = False

    def attend(self) -> None:
        """Take note of connections that SQLAlchemy makes from now on; cheap, and once is enough."""
        engine = sys.modules.get("sqlalchemy.engine")
        if engine is not None and not self._listening:
            self._listening = True
            sys.modules["sqlalchemy.event"].listen(engine.Engine, "do_connect", self._note)

    def _note(self, _dialect: Any, record: Any, arguments: Iterable[Any], parameters: dict[str, Any]) -> None:
        """SQLAlchemy is about to connect (DialectEvents.do_connect); returning None lets it."""
        if self._is_place(" ".join(map(str, (*arguments, *parameters.values())))):
            self._records.add(record)

    def _is_place(self, text: str) -> bool:
        return any(place in text for place in self._places)

    def discard(self) -> None:
        """Have no pool use a connection again that was made before now and leads to a branch."""
        for record in list(self._records):
            # A soft invalidation closes nothing here (an asyncio driver could not do it outside its loop): the pool
            # makes a new connection at the next checkout.  See ConnectionPoolEntry.invalidate in SQLAlchemy.
            record.invalidate(soft=True)
        self._records.clear()
        self._close_django()

    def _close_django(self) -> None:
        database, configuration = sys.modules.get("django.db"), sys.modules.get("django.conf")
        if database is None or configuration is None or not configuration.settings.configured:
            return
        for connection in database.connections.all(initialized_only=True):
            if self._is_place(f"{connection.settings_dict.get('HOST')} {connection.settings_dict.get('PORT')}"):
                connection.close()

    def leave(self) -> None:
        """Stop listening."""
        engine = sys.modules.get("sqlalchemy.engine")
        if self._listening and engine is not None:
            sys.modules["sqlalchemy.event"].remove(engine.Engine, "do_connect", self._note)
            self._listening = False
