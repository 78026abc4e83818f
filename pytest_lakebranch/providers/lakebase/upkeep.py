"""When branches expire: renewed while a run needs them, never where they have children, at a set time where kept. And
how large the computes are of those that are needed for long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pytest_lakebranch.errors import CloudError, LakebranchError
from pytest_lakebranch.providers.lakebase.branches import Branches
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute

LOOK_SECONDS = 5.0
RESIZE_AT = 2
"""The look at which a branch gets the smallest compute: most are deleted before, and could not be meanwhile."""
REST_AFTER = 30.0
"""Seconds after which a spare's endpoint may go to sleep."""
RENEWAL_SECONDS = 30.0
"""For one attempt to renew a branch: others wait for their turn."""
SILENT_SECONDS = 30.0
"""How long a server may take to answer a question of ours, none of which is any work."""


@dataclass(slots=True)
class _Term:
    """One branch's time. ``lock`` is held while it is changed; a ``settled`` one is not renewed. ``large`` is its
    endpoint, when that is to become smaller.
    """

    renewed: float
    large: str = ""
    looks: int = 0
    settled: bool = False
    trouble: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Upkeep:
    """Looks after the branches that ``alive`` gives, from a thread of its own, until it is closed.

    Every change of a branch's expiry goes through here: one after the other, so that none undoes a later one.
    """

    def __init__(
        self, branches: Branches, alive: Callable[[], Iterable[LakebaseCompute]], wall: Callable[[], float]
    ) -> None:
        self._branches = branches
        self._alive = alive
        self._wall = wall
        self._lock = threading.Lock()
        self._terms: dict[str, _Term] = {}
        self._trouble: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_house, name="lakebranch-renewal", daemon=True)
        self._thread.start()

    def begin(self, path: str, *, large: str = "") -> None:
        """The branch was made just now; ``large`` is its endpoint, unless that is as small as may be."""
        with self._lock:
            self._terms[path] = _Term(self._wall(), large)

    def forget(self, path: str) -> None:
        """The branch is to be deleted."""
        with self._lock:
            self._terms.pop(path, None)

    @property
    def troubles(self) -> list[BaseException]:
        """What keeps branches from being renewed that need it."""
        with self._lock:
            found = [self._trouble, *(term.trouble for term in self._terms.values())]
        return [trouble for trouble in found if trouble is not None]

    def forever(self, path: str) -> None:
        """Let a branch live until it is deleted, so that it may have children. Raises CloudError or BranchError."""
        term = self._term(path)
        with term.lock:
            if not term.settled:
                self._branches.keep_forever(path)
                term.settled, term.trouble = True, None

    def until(self, path: str, until: float) -> float:
        """Let a branch expire then, or as late as the service allows, and not be renewed any more; when it expires.

        Raises CloudError or BranchError.
        """
        term = self._term(path)
        with term.lock:
            seconds = self._branches.set_ttl(path, until - self._wall())
            term.settled = True
            return self._wall() + seconds

    def _term(self, path: str) -> _Term:
        with self._lock:
            return self._terms.setdefault(path, _Term(self._wall()))

    def _keep_house(self) -> None:
        """Whatever goes wrong at one look, there is a next one."""
        while not self._over.wait(LOOK_SECONDS):
            try:
                self.tick()
            except Exception as error:  # noqa: BLE001  (told at the end, unless a later look goes well)
                self._trouble = error
            else:
                self._trouble = None

    def tick(self) -> None:
        """Renew what would expire, let spares' endpoints go to sleep, make large ones smaller, and give servers up that
        do not answer. Done all the time anyway.
        """
        alive = list(self._alive())
        for compute in alive:
            compute.hang_up_if_silent(SILENT_SECONDS)
            compute.rest_if_idle(REST_AFTER)
        for path, endpoint in self._outgrown():
            self._branches.later(self._make_small, path, endpoint)
        for compute in alive:
            if self._over.is_set() or not self._renewed(compute.path):
                return

    def _outgrown(self) -> list[tuple[str, str]]:
        """The branches whose endpoints are to become smaller now."""
        with self._lock:
            for term in self._terms.values():
                term.looks += 1
            return [(path, term.large) for path, term in self._terms.items() if term.large and term.looks == RESIZE_AT]

    def _make_small(self, path: str, endpoint: str) -> None:
        """A branch that is being deleted stays as it is."""
        if self._is_needed(path):
            try:
                self._branches.make_small(endpoint)
            except LakebranchError:
                if self._is_needed(path):
                    raise

    def _is_needed(self, path: str) -> bool:
        with self._lock:
            return path in self._terms

    def _renewed(self, path: str) -> bool:
        """Renew a branch, if it is time; False when the service gives no answer, so that the others can wait, too."""
        try:
            self._renew(path)
        except Exception as error:  # noqa: BLE001  (told at the end, unless a later attempt succeeds)
            self._note(path, error)
            return not isinstance(error, CloudError) or not error.is_silence
        return True

    def _renew(self, path: str) -> None:
        with self._lock:
            term = self._terms.get(path)
        if term is None or not self._is_due(term):
            return
        with term.lock:
            if self._is_due(term):  # nobody else has done it meanwhile
                self._branches.set_ttl(path, self._branches.ttl, RENEWAL_SECONDS)
                term.renewed, term.trouble = self._wall(), None

    def _is_due(self, term: _Term) -> bool:
        """Also when the clock was set back: then nobody knows how long ago that was."""
        return not term.settled and not 0 <= self._wall() - term.renewed <= self._branches.ttl / 3

    def _note(self, path: str, error: Exception) -> None:
        with self._lock:
            term = self._terms.get(path)
            if term is not None:  # else it is being deleted
                term.trouble = error

    def close(self) -> None:
        """Renew nothing any more. Idempotent. A renewal that is still under way is not waited for longer than it takes
        to try; should it come true later, that harms nobody.
        """
        self._over.set()
        self._thread.join(RENEWAL_SECONDS)
