"""Makes the connection pools of libraries forget connections to branches that are gone.

Nothing is imported: a library that the application has not loaded has no pool.
"""

from __future__ import annotations

import sys
import weakref
from typing import Any


class Frameworks:
    """What this process's application may keep connections with."""

    def __init__(self, sockets: str) -> None:
        self._sockets = sockets
        self._records: weakref.WeakSet[Any] = weakref.WeakSet()
        self._listening = False

    def attend(self) -> None:
        """Take note of connections that SQLAlchemy makes from now on; cheap, and once is enough."""
        pool = sys.modules.get("sqlalchemy.pool")
        if pool is not None and not self._listening:
            self._listening = True
            sys.modules["sqlalchemy.event"].listen(pool.Pool, "connect", self._note)

    def _note(self, _connection: Any, record: Any) -> None:
        self._records.add(record)

    def discard(self) -> None:
        """Have no pool use a connection again that was made before now and leads to a branch."""
        for record in list(self._records):
            # A soft invalidation closes nothing here (an asyncio driver could not do it outside its loop): the pool
            # makes a new connection at the next checkout.  See SQLAlchemy's ConnectionPoolEntry.invalidate.
            record.invalidate(soft=True)
        self._records.clear()
        self._close_django()

    def _close_django(self) -> None:
        database = sys.modules.get("django.db")
        if database is None:
            return
        for connection in database.connections.all(initialized_only=True):
            if str(connection.settings_dict.get("HOST", "")).startswith(self._sockets):
                connection.close()

    def leave(self) -> None:
        """Stop listening."""
        pool = sys.modules.get("sqlalchemy.pool")
        if self._listening and pool is not None:
            sys.modules["sqlalchemy.event"].remove(pool.Pool, "connect", self._note)
