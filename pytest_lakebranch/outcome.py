"""What became of a test on its branch: told with the test's failure, and to the host when the lease ends."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest

from pytest_lakebranch.branch import Branch
from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.kept import open_command
from pytest_lakebranch.model import LeaseEnd
from pytest_lakebranch.run import Run

NAME = "lakebranch_outcome"
BRANCH: pytest.StashKey[Branch] = pytest.StashKey()
FAILED: pytest.StashKey[str] = pytest.StashKey()


class Outcome:
    """Adds to the report of a failed test what is to be said of its own branch. A plugin, once there are leases."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After everybody else: a failure that was expected is none."""
        report = yield
        branch = item.stash.get(BRANCH, None)
        if report.failed and branch is not None and not branch.ended:
            item.stash[FAILED] = f"failed in {call.when}"
            lines = list(self._lines(item, branch))
            report.sections += [("lakebranch", "\n".join(lines))] if lines else []
        return report

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
                yield f"branch {branch.name} is kept for {settings.keep_for}, as the test leaves it: {command}"


def begin(run: Run, item: pytest.Item, branch: Branch) -> None:
    """A test has been given a branch of its own."""
    item.stash[BRANCH], item.stash[FAILED] = branch, ""
    if not item.config.pluginmanager.hasplugin(NAME):
        item.config.pluginmanager.register(Outcome(run), NAME)


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
