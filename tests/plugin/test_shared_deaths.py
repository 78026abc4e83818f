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
        ["the server of the worker's branch (b*) died during the test, or after the one before it (*), and the test*"]
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


def test_how_often_it_is_asked(project: Project) -> None:
    """A worker's branch that lived when a test ended lives when the next begins; a forked one is not asked before."""
    project.write(
        conftest="""
        import pytest
        from pytest_lakebranch.run import Run

        calls, death = [], Run.death

        def counted(run, branch, *, seen=""):
            calls.append(seen)
            return death(run, branch, seen=seen)

        Run.death = counted

        @pytest.fixture
        def asked():
            return calls
        """,
        test_it="""
        import pytest

        BEFORE, AFTER = "before test_it.py::test_", "at the end of test_it.py::test_"

        def test_forked(lakebranch_worker, lakebranch, asked):
            assert asked == []

        @pytest.mark.parametrize("number", range(2))
        @pytest.mark.lakebranch(isolation="rollback")
        def test_rollback(lakebranch_conn, asked, number): ...

        def test_of_the_run(lakebranch_run, asked):
            said = [f"{AFTER}forked", f"{AFTER}rollback[0]", f"{AFTER}rollback[1]", f"{BEFORE}of_the_run"]
            assert asked == said
        """,
    )
    project.run().assert_outcomes(passed=4)


def test_dead_between_two_tests(project: Project) -> None:
    """A server that a wider fixture ended is not laid at the door of the next test alone, and is told as dead later."""
    project.write(
        test_it="""
        import pytest
        from killer import kill

        @pytest.fixture(scope="class")
        def killed(lakebranch_worker):
            yield
            kill(lakebranch_worker)

        @pytest.mark.lakebranch(isolation="worker")
        class TestFirst:
            def test_it(self, killed): ...

        @pytest.mark.lakebranch(isolation="worker")
        def test_next(): ...

        @pytest.mark.lakebranch(isolation="worker")
        def test_later(): ...
        """
    )
    result = project.run()
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*died during the test, or after the one before it (*), and the test did not fail*"])
    result.stdout.fnmatch_lines(["*has died: * (seen at the end of test_it.py::test_next)"])
