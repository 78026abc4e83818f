"""Makes the connection pools of libraries forget connections to branches that are gone, and pytest-django leave alone
the databases that lead to one.

Nothing is imported: a library that the application has not loaded has no pool.  Connections that do not lead to a
branch are left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

WHERE = ("HOST", "PORT", "host", "port")
WIDER = {"lakebranch_worker", "lakebranch_run"}


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


class AtImport(MetaPathFinder):
    """Calls ``then`` whenever ``module`` has been imported: a test may be the first to load what it tests."""

    def __init__(self, module: str, then: Callable[[], None]) -> None:
        self._module = module
        self._then = then

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What the finders after this one find, which then tells when it is loaded."""
        if name != self._module:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module
            found.loader.exec_module = lambda module: self._loaded(execute, module)  # type: ignore[method-assign]
        return found

    def _loaded(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        self._then()


class Frameworks:
    """What this process's application may keep connections with.

    ``places``: whatever leads to a branch has one of these in its connection string or parameters.
    """

    def __init__(self, places: tuple[str, ...]) -> None:
        self._places = places
        self._records: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._listening = False
        self._at_import = AtImport("sqlalchemy", self.attend)

    def attend(self) -> None:
        """Take note of connections that SQLAlchemy makes from now on, or once it is loaded; cheap, once is enough."""
        engine = sys.modules.get("sqlalchemy.engine")
        if self._listening:
            return
        if engine is not None:
            self._listening = True
            sys.modules["sqlalchemy.event"].listen(engine.Engine, "do_connect", self._note)
        elif self._at_import not in sys.meta_path:
            sys.meta_path.insert(0, self._at_import)

    def _note(self, _dialect: Any, record: Any, arguments: Iterable[Any], parameters: dict[str, Any]) -> None:
        """SQLAlchemy is about to connect (DialectEvents.do_connect); returning None lets it."""
        if self._is_place(" ".join(map(str, (*arguments, *parameters.values())))):
            with self._lock:
                self._records.add(record)

    def _is_place(self, text: str) -> bool:
        return any(place in text for place in self._places)

    def discard(self) -> None:
        """Have no pool use a connection again that was made before now and leads to a branch."""
        with self._lock:
            records = list(self._records)
            self._records.clear()
        for record in records:
            # A soft invalidation closes nothing here (an asyncio driver could not do it outside its loop): the pool
            # makes a new connection at the next checkout.  See ConnectionPoolEntry.invalidate in SQLAlchemy.
            record.invalidate(soft=True)
        self._close_django()

    def _close_django(self) -> None:
        for connection in _django_connections(initialized_only=True):
            if self._is_place(_address(connection)):
                connection.close()

    def leave(self) -> None:
        """Stop listening."""
        if self._at_import in sys.meta_path:
            sys.meta_path.remove(self._at_import)
        engine = sys.modules.get("sqlalchemy.engine")
        if self._listening and engine is not None:
            sys.modules["sqlalchemy.event"].remove(engine.Engine, "do_connect", self._note)
            self._listening = False


def _django_connections(**only: bool) -> list[Any]:
    """Those of this thread; none where Django is not loaded or has no settings."""
    database, configuration = sys.modules.get("django.db"), sys.modules.get("django.conf")
    if database is None or configuration is None or not configuration.settings.configured:
        return []
    return list(database.connections.all(**only))


def _address(connection: Any) -> str:
    """Where a connection of Django leads. What reads URLs leaves the host of a unix socket among the options."""
    settings = connection.settings_dict
    return " ".join(str(place.get(name)) for place in (settings, settings["OPTIONS"]) for name in WHERE)


class DjangoDatabases:
    """A plugin beside pytest-django, which would make a test database of its own wherever Django's settings lead to.

    Where they lead to a branch (``places``, as in Frameworks), what the base has brought is the test database.
    ``migrated``: Django's migrations are part of the base. If they are not known to be, and the test uses a wider
    branch, pytest-django makes its database there.
    """

    def __init__(self, places: tuple[str, ...], *, migrated: bool) -> None:
        self._places = places
        self._migrated = migrated

    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> None:
        """Before pytest-django's fixture, or a project's own of that name: all else that it does stays."""
        if fixturedef.argname == "django_db_setup" and (self._migrated or not WIDER & {*request.fixturenames}):
            for connection in _django_connections():
                if any(place in _address(connection) for place in self._places):
                    _spare(connection)


def _spare(connection: Any) -> None:
    """Have Django's ``setup_databases`` and ``teardown_databases`` take the database for made, and leave it there."""
    connection.creation.create_test_db = lambda *_, **__: connection.settings_dict["NAME"]
    connection.creation.serialize_db_to_string = lambda: "[]"
    connection.creation.destroy_test_db = lambda *_, **__: None
