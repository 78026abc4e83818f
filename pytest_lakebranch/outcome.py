"""What became of a test on its branch: told with the test's failure, and to the host when the lease ends."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress

import pytest

from pytest_lakebranch.branch import Branch
from pytest_lakebranch.branches.lease import Purpose
from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.kept import open_command
from pytest_lakebranch.model import LeaseEnd
from pytest_lakebranch.run import Run

NAME = "lakebranch_outcome"
BRANCH: pytest.StashKey[Branch] = pytest.StashKey()
SHARED: pytest.StashKey[dict[Purpose, Branch]] = pytest.StashKey()
"""The branches that the test shares with others, while it works on them."""
FAILED: pytest.StashKey[str] = pytest.StashKey()
ALIVE: pytest.StashKey[Branch | None] = pytest.StashKey()
"""In the configuration: the worker's branch, whose server lived when the last test that shared it ended."""


class Outcome:
    """Adds to the report of a failed test what is to be said of its branches. A plugin, once there are leases."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After everybody else: a failure that was expected is none."""
        report = yield
        branch = item.stash.get(BRANCH, None)
        own, shared = branch is not None and not branch.ended, item.stash.get(SHARED, {})
        if report.failed and (own or shared):
            item.stash[FAILED] = f"failed in {call.when}"
            lines = [*self._lines(item, branch)] if branch is not None and own else []
            lines += self._lines_of_shared(item, shared)
            report.sections += [("lakebranch", "\n".join(lines))] if lines else []
        return report

    def _lines_of_shared(self, item: pytest.Item, shared: dict[Purpose, Branch]) -> Iterator[str]:
        with suppress(LakebranchError):
            for purpose, branch in shared.items():
                died = self._run.death(branch, seen=_at_end(item))
                if died is not None:
                    yield f"{_called(purpose, branch)} died {_when(item, branch)}: {died}\n{_loss(purpose)}"

    def _lines(self, item: pytest.Item, branch: Branch) -> Iterator[str]:
        with suppress(LakebranchError):  # the host is gone, and the failure says so
            died = self._run.death(branch)
            if died is not None:
                yield (
                    f"the server of this test's branch ({branch.name}) died during the test: {died}\n"
                    "The next test gets another branch."
                )
            settings = self._run.settings
            if settings.keep != "never":
                command = open_command(item.nodeid, branch.name, settings.to_json())
                yield f"branch {branch.name} is to be kept for {settings.keep_for}, as the test leaves it: {command}"


def begin(run: Run, item: pytest.Item, branch: Branch) -> None:
    """A test has been given a branch of its own."""
    item.stash[BRANCH], item.stash[FAILED] = branch, ""
    _attend(run, item)


def _attend(run: Run, item: pytest.Item) -> None:
    if not item.config.pluginmanager.hasplugin(NAME):
        item.config.pluginmanager.register(Outcome(run), NAME)


@contextmanager
def sharing(run: Run, item: pytest.Item, purpose: Purpose, *, forked: bool = False) -> Iterator[Branch]:
    """The time in which a test works on the branch of its worker or of the run.

    Raises BranchError when its server is dead before, and when it died in that time under a test that did not fail.
    Before, it is not asked of a worker's branch that lived when the test before ended, nor of one that is ``forked`` at
    once: a dead one cannot be, and what went wrong is told then.
    """
    branch = run.shared(purpose)
    if not (forked or _lived(item, branch)):
        _check_alive(run, item, purpose, branch)
    item.stash[FAILED] = ""
    item.stash.setdefault(SHARED, {})[purpose] = branch
    _attend(run, item)
    try:
        yield branch
    except BranchError:
        _check_alive(run, item, purpose, branch)
        raise
    finally:
        del item.stash[SHARED][purpose]
    died, when = run.death(branch, seen=_at_end(item)), _when(item, branch)
    if purpose == "worker":
        item.config.stash[ALIVE] = branch if died is None else None
    if died is not None and not item.stash[FAILED]:
        raise BranchError(
            f"{_called(purpose, branch)} died {when} ({died}), and the test did not fail of it. "
            f"{_loss(purpose)} A test that ends its server on purpose is to be marked @pytest.mark.destructive."
        )


def _check_alive(run: Run, item: pytest.Item, purpose: Purpose, branch: Branch) -> None:
    """Raise BranchError when its server has died."""
    died = run.death(branch, seen=f"before {item.nodeid}")
    if died is not None:
        raise BranchError(f"{_called(purpose, branch)} has died: {died}\n{_loss(purpose)}")


def _lived(item: pytest.Item, branch: Branch) -> bool:
    """Whether it is the worker's branch, and was found alive at the end of the last test that shared it."""
    return item.config.stash.get(ALIVE, None) is branch


def _when(item: pytest.Item, branch: Branch) -> str:
    return "during the test, or after the one before it" if _lived(item, branch) else "during the test"


def _at_end(item: pytest.Item) -> str:
    return f"at the end of {item.nodeid}"


def _called(purpose: Purpose, branch: Branch) -> str:
    return f"the server of the {purpose}'s branch ({branch.name})"


def _loss(purpose: Purpose) -> str:
    others = "" if purpose == "worker" else ", of all workers,"
    return f"What was in it is lost with it: later tests that share it{others} fail for this reason."


def failure(item: pytest.Item) -> str:
    """How the test failed; empty when it did not, or has not yet."""
    return item.stash[FAILED]


def check(item: pytest.Item, branch: Branch, end: LeaseEnd) -> None:
    """Raise BranchError when the server died under a test that did not notice."""
    if end.reason.startswith("server died") and not item.stash[FAILED]:
        raise BranchError(
            f"the server of this test's branch ({branch.name}) died during the test ({end.reason}), and the test did "
            "not fail of it. The next test gets another branch. A test that ends its server on purpose is to be marked "
            "@pytest.mark.destructive."
        )
