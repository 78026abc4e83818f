"""Servers of branches that tests share, and that one of them ends."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

KILLER = """
import os, pathlib, signal

def kill(branch):
    with branch.connect() as conn:
        stat = pathlib.Path(f"/proc/{conn.info.backend_pid}/stat").read_text()
        os.kill(int(stat.rsplit(")", 1)[1].split()[1]), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def killer(project: Project) -> None:
    """Each project has a function that kills a branch's server."""
    project.write(killer=KILLER)
    project.ini(pythonpath=".")


def test_who_killed_it(project: Project) -> None:
    """The test that killed the worker's server fails, and all that share it later are told which test it was."""
    project.write(
        test_it="""
        import pytest
        from killer import kill

        @pytest.mark.lakebranch(isolation="worker")
        def test_before(): ...

        @pytest.mark.lakebranch(isolation="worker")
        def test_kills(lakebranch):
            kill(lakebranch)

        @pytest.mark.lakebranch(isolation="worker")
        def test_later(): ...

        @pytest.mark.lakebranch(isolation="rollback")
        def test_rollback(lakebranch_conn): ...

        def test_forked(lakebranch_worker, lakebranch): ...

        def test_unleased(lakebranch_worker): ...

        def test_another(lakebranch): ...
        """
    )
    result = project.run()
    result.assert_outcomes(passed=3, errors=5)
    result.stdout.fnmatch_lines(
        ["the server of the worker's branch (b*) died during the test (*), and the test did not fail of it.*"]
    )
    told = "the server of the worker's branch (b*) has died: * (seen at the end of test_it.py::test_kills)"
    result.stdout.fnmatch_lines([told] * 4)
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_a_failure_says_so(project: Project) -> None:
    """A test that fails since the run's server died under it is told the cause; one that resets the branch is not."""
    project.write(
        test_it="""
        import pytest
        from killer import kill

        @pytest.mark.lakebranch(isolation="run")
        def test_resets(lakebranch):
            kill(lakebranch)
            lakebranch.reset()

        def test_kills(lakebranch_run):
            kill(lakebranch_run)
            lakebranch_run.connect()

        @pytest.mark.lakebranch(isolation="run")
        def test_later(): ...
        """
    )
    result = project.run()
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(["the server of the run's branch (b*) died during the test: *"])
    result.stdout.fnmatch_lines(["*has died: * (seen at the end of test_it.py::test_kills)"])
