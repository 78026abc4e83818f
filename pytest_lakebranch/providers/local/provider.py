"""The local provider: sealed layers, branches of them, and the servers that make them databases."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from pytest_lakebranch import kept
from pytest_lakebranch.config import Settings
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import BaseError, BranchError, LakebranchError, MachineError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import ForkPoint, ProviderFacts
from pytest_lakebranch.postgres import binaries
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.local import (
    branch_file,
    cache,
    cluster,
    facts,
    keeping,
    launch,
    layers,
    seal,
    storage,
)
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.disk import file_time, spread, translated
from pytest_lakebranch.providers.local.freeze import Backup, freeze, recover
from pytest_lakebranch.providers.local.incoming import LocalIncoming, take_over
from pytest_lakebranch.providers.local.places import Places
from pytest_lakebranch.providers.local.programs import reachable
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.providers.local.serving import Servers, stopped_on_failure
from pytest_lakebranch.providers.local.states import States
from pytest_lakebranch.providers.local.storage.base import Place, Sealed, Storage, removed_on_failure
from pytest_lakebranch.state import State

T = TypeVar("T")
DIRECTORIES = ("branches", "building", "frozen")


class LocalProvider:
    """See Provider. Everything but layers lies in ``run_directory`` and in ``sockets``, and is gone after close().

    Raises MachineError when PostgreSQL cannot run here or the wanted storage rung does not work.
    """

    def __init__(self, settings: Settings, *, state: State, run_directory: Path, sockets: Path) -> None:
        self._settings = settings
        self._binaries = reachable(binaries.find(settings.postgres), state)
        machine = launch.inspect()
        self._chosen = storage.choose(settings.storage, directory=run_directory, machine=machine)
        self._storage = self._chosen.storage
        self._launcher = launch.Launcher(machine)
        self._states = States(
            layers.Layers(state.layers, self._storage, self._binaries),
            self._storage,
            directory=run_directory / "frozen",
            recover=self._recover,
        )
        self._state = state
        self._run_directory = run_directory
        self._servers = Servers(settings, self._binaries, self._launcher, sockets)
        self._places = Places(run_directory / "branches", self._storage)
        self._lock = threading.RLock()
        """Taken before that of the states."""
        self._alive: set[LocalCompute] = set()
        self._closed = False
        with translated(run_directory, "preparing the run's directory", MachineError):
            for name in DIRECTORIES:
                (run_directory / name).mkdir(mode=0o700, exist_ok=True)
                spread(run_directory / name)

    @property
    def facts(self) -> ProviderFacts:
        """See Provider."""
        return facts.facts(self._binaries, self._chosen)

    @property
    def run_directory(self) -> Path:
        """Where everything of the run lies."""
        return self._run_directory

    @property
    def root_key(self) -> str:
        """See Provider."""
        return facts.root_key(self._settings, self._binaries)

    layered = True
    start_seconds = None
    at_a_time = None
    room = None

    def when_short(self, short: Callable[[], None]) -> None:
        """See Provider. There is always room."""

    def at(self, when: str) -> ForkPoint:
        """See Provider."""
        raise BranchError(
            f"at={when!r}: the local provider keeps no history. Use it with lakebranch_provider=lakebase."
        )

    # -- layers

    def cached(self, key: str) -> ForkPoint | None:
        """See Provider."""
        return self._states.cached(key)

    def building(self, key: str) -> AbstractContextManager[None]:
        """See Provider."""
        return self._states.building(key)

    # -- building

    def build(self, name: str, at: ForkPoint | None, *, key: str = "") -> Compute:  # noqa: ARG002  (see Provider)
        """See Provider."""
        sealed = None if at is None else self._states.at(at)
        directory = self._run_directory / "building" / uuid.uuid4().hex[:12]
        place = Place(directory, directory / "data")
        with translated(directory, f"building {name}", BaseError), removed_on_failure(self._storage, directory):
            directory.mkdir(mode=0o700)
            self._fill(place, sealed)
            filled = file_time(directory)
            server = self._servers.serve(name, place, building=True)
            server.sealed_until = None if sealed is None else filled
            with stopped_on_failure(server):
                if sealed is None:
                    names = {"user": self._settings.user, "database": self._settings.database}
                    cluster.create_role_and_database(server, **names)
                    cluster.add_what_rewinding_needs(server, self._binaries.major)
                cluster.set_superuser(server, self._settings.user, superuser=True)
            return self._registered(LocalCompute(self, server, at=None, endpoint=self._servers.endpoint(server)))

    def _fill(self, place: Place, sealed: Sealed | None) -> None:
        if sealed is not None:
            self._storage.copy(sealed.data, place.data, sealed.tree)
            return
        self._storage.make(place.data)
        cluster.initialise(
            place.data,
            binaries=self._binaries,
            locale=self._settings.locale,
            launcher=self._launcher,
            log=place.log,
        )

    def incoming(self, compute: Compute) -> LocalIncoming:
        """See Provider."""
        local = _local(compute)
        directory = local.server.place.directory / "incoming"
        with translated(directory, "making room for a copy", BaseError):
            self._storage.make(directory)
        return LocalIncoming(directory, lambda database: self._replace(local, directory, database))

    def _replace(self, compute: LocalCompute, incoming: Path, database: str) -> Compute:
        self._take(compute, BaseError("the copy was not taken over: its builder died, or the run is ending."))
        directory = compute.server.place.directory
        with translated(directory, "taking over a copy", BaseError), removed_on_failure(self._storage, directory):
            server = take_over(compute.server, incoming, database, servers=self._servers, storage=self._storage)
            return self._registered(LocalCompute(self, server, at=None, endpoint=self._servers.endpoint(server)))

    def check_quiet(self, compute: Compute) -> None:
        """See Provider."""
        server = _local(compute).server
        seal.with_words(server, lambda: seal.check_quiet(server))

    def seal(self, compute: Compute, key: str) -> ForkPoint:
        """See Provider."""
        local = _local(compute)
        try:
            self.check_quiet(local)
            cluster.set_superuser(local.server, self._settings.user, superuser=False)
            seal.check_reachable(local.endpoint)
            with translated(self._run_directory, "sealing the base", BaseError):
                seal.bring_to_rest(local.server, since=local.server.sealed_until)
                with self._taken_over(local):
                    return self._states.commit(key, local.server.place.data)
        except BranchError as error:
            raise BaseError(f"the base could not be sealed: {error}") from error
        finally:
            local.discard(disposable=True)

    @contextlib.contextmanager
    def _taken_over(self, compute: LocalCompute) -> Iterator[None]:
        """From here to the end of the block nobody else may remove the files of a stopped server; then they go."""
        self._take(compute, BaseError("the base was not sealed: its builder died, or the run is ending."))
        try:
            yield
        finally:
            self._put_away(compute, disposable=True)

    def _take(self, compute: LocalCompute, otherwise: LakebranchError) -> None:
        with self._lock:
            if compute not in self._alive:
                raise otherwise
            self._alive.remove(compute)

    # -- branches

    def start(self, name: str, at: ForkPoint) -> Compute:
        """See Provider."""
        sealed = self._states.at(at)
        with translated(self._run_directory, f"making branch {name}"):
            place = self._places.take(sealed)
        try:
            with translated(self._run_directory, f"starting branch {name}"):
                server = self._servers.serve(name, place, caches=self._states.caches(sealed))
                compute = LocalCompute(self, server, at=sealed, endpoint=self._servers.endpoint(server))
                with stopped_on_failure(server):
                    compute.began()
                    self._describe(name, server, sealed)
        except BaseException:
            self._places.give_back(place, sealed, reusable=False)
            raise
        return self._registered(compute)

    def _describe(self, name: str, server: Server, sealed: Sealed) -> None:
        branch_file.write(
            server.place.directory,
            name=name,
            origin=sealed.key,
            sealed=str(sealed.data),
            rung=self._storage.rung,
            sockets=str(server.sockets),
            pid=server.pid,
        )

    def _registered(self, compute: LocalCompute) -> LocalCompute:
        with self._lock:
            self._alive.add(compute)
            if not self._closed:
                return compute
        compute.discard(disposable=True)
        raise BranchError(f"{compute.name} was not started: the run is over.")

    def suspend(self, compute: LocalCompute) -> None:
        """Stop the server of ``compute``; its files stay until it is resumed or discarded. Raises BranchError."""
        compute.server.stop_cleanly()

    def resume(self, compute: LocalCompute) -> LocalCompute:
        """A server on the files of a suspended compute, which is no more, or of one whose server died.

        Raises BranchError or MachineError.
        """
        place, name = compute.server.place, compute.name
        compute.server.stop_at_once()
        remove_tree(compute.server.sockets)
        with translated(place.directory, f"waking {name}"):
            # A volatile overlay leaves a mark there that it was mounted, and refuses to be again (overlayfs.rst).
            remove_tree(place.directory / "work" / "work")
            for data in (place.data, place.directory / "upper"):
                (data / "postmaster.pid").unlink(missing_ok=True)  # a killed server's would say that it is ready
            server = self._servers.serve(name, place)
        resumed = LocalCompute(self, server, at=compute.at, endpoint=self._servers.endpoint(server))
        with self._lock:
            if compute in self._alive:
                self._alive.remove(compute)
                self._alive.add(resumed)
                return resumed
        server.stop_at_once()
        remove_tree(server.sockets)
        raise BranchError(f"{name} was not woken: it was discarded meanwhile, or the run is over.")

    # -- what a compute asks of us

    def freeze(self, compute: LocalCompute) -> tuple[ForkPoint, Backup]:
        """See Owner."""
        return self.adopt(
            f"forking {compute.name}", lambda data, storage: freeze(compute.server, data, storage=storage)
        )

    def adopt(self, doing: str, bring: Callable[[Path, Storage], T]) -> tuple[ForkPoint, T]:
        """A frozen present made of what ``bring`` puts at the path it is given, and what it returns: see States."""
        return self._states.adopt(doing, bring)

    def _recover(self, data: Path) -> None:
        recover(
            data,
            launcher=self._launcher,
            command=self._servers.single(data),
            database=self._settings.database,
            log=data.with_name("log"),
        )

    def knows(self, at: ForkPoint) -> bool:
        """See Owner."""
        return self._states.knows(at)

    def keep(self, compute: LocalCompute, note: Kept) -> Kept:
        """See Owner."""
        self._take(compute, BranchError(f"{compute.name} cannot be kept: it is gone already."))
        place, sealed, target = compute.server.place, compute.at, kept.place(self._state, note.run, compute.name)
        assert sealed is not None  # noqa: S101  (a lease's branch is made from a sealed state)
        try:
            keeping.bring_to_rest(compute.server)
            with translated(place.directory, f"keeping {compute.name}"):
                note = keeping.leave(
                    place, sealed, note, target, alone=self._storage if self._states.is_frozen(sealed) else None
                )
        except BaseException:
            self._put_away(compute, disposable=True)
            raise
        self._places.let_go()
        self._remove_forgotten(sealed)
        return note

    def take_back(self, compute: LocalCompute, *, disposable: bool) -> None:
        """See Owner."""
        with self._lock:
            if compute not in self._alive:
                return
            self._alive.remove(compute)
        self._put_away(compute, disposable=disposable)

    def _put_away(self, compute: LocalCompute, *, disposable: bool) -> None:
        server = compute.server
        sound = server.stop_at_once()
        with translated(server.place.directory, f"removing {compute.name}"):
            remove_tree(server.sockets)
            if compute.at is None:
                self._storage.remove(server.place.directory)
                return
            self._places.give_back(server.place, compute.at, reusable=sound and not disposable)
            self._remove_forgotten(compute.at)

    # -- giving back

    def forget(self, at: ForkPoint) -> None:
        """See Provider. Branches that still live keep it until the last of them is discarded."""
        sealed = self._states.forget(at)
        if sealed is not None:
            self._remove_forgotten(sealed)

    def _remove_forgotten(self, sealed: Sealed) -> None:
        with self._lock:
            used = any(compute.at is sealed for compute in self._alive)
            if not self._states.drop_if_unused(sealed, used=used):
                return
        sealed.close()
        self._places.forget(sealed)
        self._storage.remove(sealed.data.parent)

    def close(self) -> None:
        """See Provider. All is tried; raises ExceptionGroup with what could not be removed."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
        sealed = self._states.present
        failures: list[Exception] = []
        for compute in alive:
            with _gathered(failures):
                compute.discard(disposable=True)
        with _gathered(failures):
            self._places.close()
        for name in DIRECTORIES:
            with _gathered(failures):
                self._remove_all(self._run_directory / name)
        for close in (*(one.close for one in sealed), self._launcher.close, self._states.close):
            with _gathered(failures):
                close()
        with _gathered(failures):
            cache.limit(self._state.layers, self._settings.cache_bytes, but=[one.key for one in sealed])
        if failures:
            raise ExceptionGroup("not everything of this run could be removed", failures)

    def _remove_all(self, directory: Path) -> None:
        for path in list(directory.iterdir()) if directory.is_dir() else ():
            self._storage.remove(path)
        remove_tree(directory)


@contextlib.contextmanager
def _gathered(failures: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  (all is tried; raised together in the end)
        failures.append(error)


def _local(compute: Compute) -> LocalCompute:
    if not isinstance(compute, LocalCompute):
        raise TypeError(f"{compute.name} is not a branch of the local provider")
    return compute
