"""Where the application's URL leads in this process, and what the application may still hold of where it led before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pytest_lakebranch.branch import Branch
from pytest_lakebranch.branches.lease import Purpose
from pytest_lakebranch.environment import HINT, OUTSIDE, Seat
from pytest_lakebranch.frameworks import Frameworks, hang_up
from pytest_lakebranch.state import sockets_root

NOWHERE = (OUTSIDE, HINT)


class Application:
    """The application under test, as far as its URL goes.

    ``shared`` are the worker's and the run's branch as they are opened; ``disconnect`` ends all connections to the
    worker's branch but those that it opened itself.
    """

    def __init__(
        self, seat: Seat | None, shared: Mapping[Purpose, Branch], disconnect: Callable[[Branch], None]
    ) -> None:
        self._seat = seat
        self._shared = shared
        self._disconnect = disconnect
        self._frameworks = Frameworks((str(sockets_root()),) if seat is None else seat.places)
        self._target: Branch | tuple[str, str] | None = None
        self._behind: Branch | tuple[str, str] | None = None

    def lead_to(self, branch: Branch) -> None:
        """The URL leads to ``branch`` from now on."""
        self._lead(branch)

    def refuse(self, reason: str, hint: str) -> None:
        """The URL leads nowhere from now on, and says why."""
        self._lead((reason, hint))

    def lead_nowhere(self) -> None:
        """The URL leads to no branch from now on, also where one is shared: the test that runs has none."""
        self._lead(NOWHERE)

    @property
    def is_nowhere(self) -> bool:
        """Whether :meth:`lead_nowhere` was the last word."""
        return self._target is NOWHERE

    def lead_around(self) -> None:
        """Where the URL leads around tests: to the worker's branch, else the run's, else nowhere."""
        self._lead(None)

    def lead_again(self) -> None:
        """The URL leads where it led, or to a shared branch that was opened since."""
        self._behind = None
        self._lead(self._target)

    def discard(self) -> None:
        """No pool of the application uses a connection again that was made before now and leads to a branch."""
        self._frameworks.discard()

    def leave(self) -> None:
        """Nothing of the application is attended to any more."""
        self._frameworks.leave()

    def _lead(self, target: Branch | tuple[str, str] | None) -> None:
        self._target = target
        self._frameworks.attend()
        to = target or self._shared.get("worker") or self._shared.get("run") or NOWHERE
        before, self._behind = self._behind, to
        if to is before and not (isinstance(to, Branch) and to.ended):
            return  # a transaction of a whole class, as Django's TestCase has one, goes on
        self._frameworks.discard()
        if self._seat is None:
            return
        if isinstance(to, Branch):
            self._seat.lead_to(to.endpoint)
        else:
            self._seat.refuse(*to)
        if isinstance(before, Branch) and before is not to and not before.ended:
            self._cut(before)

    def _cut(self, left: Branch) -> None:
        """End the application's connections to a shared branch that its URL has left.

        Those to a test's own branch end, and are counted, with its lease. Those to the branch of the run are told
        from other workers' by their descriptors in this process.
        """
        if self._seat is not None and self._seat.cut():
            return
        if left is self._shared.get("worker"):
            self._disconnect(left)
        elif left is self._shared.get("run"):
            hang_up(left.endpoint.host, but=left.descriptors)
