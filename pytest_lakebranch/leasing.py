"""One test's lease: which branch it gets, where the URL leads meanwhile, and what happens when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lakebranch import outcome
from pytest_lakebranch.branch import Branch
from pytest_lakebranch.branches.lease import Purpose
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.markers import Wish, wish_of
from pytest_lakebranch.run import Run, told

if TYPE_CHECKING:
    import psycopg

LATE = "lakebranch_late"
SHARED: tuple[Purpose, ...] = ("worker", "run")
ROLLBACK_ONLY = "this test has isolation='rollback': lakebranch_conn is its only way to the database"


class TestLease:
    """What the fixtures of one test draw on."""

    __test__ = False

    def __init__(self, run: Run, item: pytest.Item, wish: Wish) -> None:
        self._run = run
        self._item = item
        self._wish = wish
        self._given: Branch

    @contextmanager
    def held(self) -> Iterator[TestLease]:
        """The time between the set-up of wider fixtures and the end of the test's own."""
        with ExitStack() as ends:
            self._open(ends)
            yield self

    def _open(self, ends: ExitStack) -> None:
        """Lease what the test wishes and lead the URL there; what is to be done at the end goes to ``ends``."""
        isolation, item = self._wish.isolation, self._item
        item.user_properties.append(("lakebranch_isolation", isolation))
        if isolation == "test":
            _share(self._run, item, named(item), ends, forked=None if self._wish.at else _closest(item))
            self._open_own(ends)
            return
        purpose: Purpose = "run" if isolation == "run" else "worker"
        _share(self._run, item, [one for one in SHARED if one == purpose or one in named(item)], ends)
        self._given = self._run.shared(purpose)
        item.user_properties.append(("lakebranch_branch", self._given.name))
        ends.callback(self._run.application.lead_around)
        if isolation == "rollback":
            self._run.application.refuse(f"pytest-lakebranch: {ROLLBACK_ONLY}", "Use another isolation for this test.")
        else:
            self._run.application.lead_to(self._given)

    def _open_own(self, ends: ExitStack) -> None:
        branch = self._given = self._run.open(
            "test",
            asker=self._item.nodeid,
            parent=None if self._wish.at else self._parent(),
            disposable=self._wish.destructive,
            at=self._wish.at,
        )
        outcome.begin(self._run, self._item, branch)
        ends.callback(self._release, branch)
        ends.callback(self._run.application.lead_around)
        self._run.application.lead_to(branch)
        self._item.ihook.pytest_lakebranch_branch_ready(branch=branch, item=self._item)

    def _parent(self) -> Branch | None:
        """By the test's own fixture closure, never by what other tests did."""
        closest = _closest(self._item)
        return None if closest is None else self._run.shared(closest)

    def _release(self, branch: Branch) -> None:
        end = self._run.release(branch, failed=outcome.failure(self._item))
        self._item.user_properties.extend(
            (f"lakebranch_{name}", value)
            for name, value in (("branch", branch.name), ("ended", end.ending), ("reason", end.reason))
        )
        self._item.ihook.pytest_lakebranch_branch_released(branch=branch, end=end, item=self._item)
        outcome.check(self._item, branch, end)

    @property
    def branch(self) -> Branch:
        """The test's branch. Raises BranchError under ``isolation="rollback"``."""
        if self._wish.isolation == "rollback":
            raise BranchError(f"{self._item.nodeid}: {ROLLBACK_ONLY}.")
        return self._given

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection to the test's branch, not autocommit; what is not committed is not kept."""
        connection = self._connect()
        try:
            if self._wish.isolation == "rollback":
                with _barred(self._given), _undone(connection, self._item.nodeid):
                    yield connection
            else:
                yield connection
        finally:
            connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg

        try:
            return self._given.connect()
        except psycopg.OperationalError as error:
            raise BranchError(f"branch {self._given.name} takes no connection: {error}") from error


def named(item: pytest.Item) -> list[Purpose]:
    """The shared branches that a test's own fixtures name, the closest first."""
    return _among(getattr(item, "fixturenames", ()))


def _among(names: Iterable[str]) -> list[Purpose]:
    """The shared branches that are among names of fixtures, the closest first."""
    return [purpose for purpose in SHARED if f"lakebranch_{purpose}" in names]


def _closest(item: pytest.Item) -> Purpose | None:
    return next(iter(named(item)), None)


def _share(
    run: Run, item: pytest.Item, purposes: Iterable[Purpose], ends: ExitStack, *, forked: Purpose | None = None
) -> None:
    for purpose in purposes:
        ends.enter_context(outcome.sharing(run, item, purpose, forked=purpose == forked))


@contextmanager
def _barred(branch: Branch) -> Iterator[None]:
    """Nobody connects to the branch in the block: what they wrote would stay."""
    branch.barred = ROLLBACK_ONLY
    try:
        yield
    finally:
        branch.barred = ""


@contextmanager
def _undone(connection: psycopg.Connection[Any], test: str) -> Iterator[None]:
    """A transaction that is rolled back at the end, and a check that the test did not end it by SQL."""
    import psycopg

    with connection.transaction(force_rollback=True):
        began = _transaction(connection)
        yield
        status = connection.info.transaction_status
        ended = status == psycopg.pq.TransactionStatus.IDLE or (
            status == psycopg.pq.TransactionStatus.INTRANS and _transaction(connection) != began
        )
    if ended:
        raise BranchError(
            f"{test}: the test ended the transaction of isolation='rollback' by SQL (COMMIT or ROLLBACK), so what it "
            "wrote may stay in the worker's branch. Use isolation='test' for it."
        )


def _transaction(connection: psycopg.Connection[Any]) -> object:
    """What stays the same as long as the transaction does: the time it began, in microseconds."""
    row = connection.execute("SELECT transaction_timestamp()").fetchone()
    return row and row[0]


@contextmanager
def lease_for(run: Run, item: pytest.Item) -> Iterator[TestLease]:
    """The lease of one test, by its markers and fixtures."""
    with told():
        wish = wish_of(item, in_use=bool(run.settings.sources)) or Wish()
        with TestLease(run, item, wish).held() as lease:
            yield lease


@contextmanager
def unleased(run: Run, item: pytest.Item) -> Iterator[None]:
    """A test that has no branch of its own: its URL leads to a shared one that its fixtures name, else nowhere."""
    with told(), ExitStack() as ends:
        _share(run, item, named(item), ends)
        closest = _closest(item)
        ends.callback(run.application.lead_around)
        if closest is not None:
            run.application.lead_to(run.shared(closest))
        else:
            run.application.lead_nowhere()
            if not item.config.pluginmanager.hasplugin(LATE):
                item.config.pluginmanager.register(Late(run), LATE)
        yield


class Late:
    """Leads the URL of a test without a branch to a shared one that a fixture of the test asks for by its name only
    when it is set up, as pytest-django's does for its marker. A plugin, once there are such tests.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, request: pytest.FixtureRequest) -> None:
        """After the fixtures that this one needs."""
        if self._run.application.is_nowhere and (asked := _among(request.fixturenames)):
            with told():
                self._run.application.lead_to(self._run.shared(asked[0]))


@contextmanager
def branch_for(run: Run, node: Any, *, base: Sequence[str | Callable[..., object]] | None) -> Iterator[Branch]:
    """A branch for as long as a fixture lives."""
    item = node if isinstance(node, pytest.Item) else None
    with told():
        whole = run.whole(base) if base else base
        branch = run.open("fixture", asker=getattr(node, "nodeid", "") or "session", base=whole)
    try:
        node.ihook.pytest_lakebranch_branch_ready(branch=branch, item=item)
        yield branch
    finally:
        with told():
            end = run.release(branch)
        node.ihook.pytest_lakebranch_branch_released(branch=branch, end=end, item=item)


@contextmanager
def factory(run: Run, item: pytest.Item) -> Iterator[Callable[[], Branch]]:
    """Makes branches that end together."""
    with ExitStack() as branches:

        def make() -> Branch:
            __tracebackhide__ = True
            return branches.enter_context(branch_for(run, item, base=None))

        yield make
