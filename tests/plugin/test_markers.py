"""Markers that are written wrongly are refused when tests are collected, with the test's name."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project

WRONG = {
    'isolation="tset"': "isolation='tset' is not one of 'test', 'rollback', 'worker', 'run'",
    'isolaton="test"': "got an unexpected keyword argument 'isolaton'",
    '"worker"': "takes 0 positional arguments but 1 was given",
    'destructive="yes"': "destructive='yes' is neither True nor False",
    'isolation="run", destructive=True': "a destructive test has a branch of its own",
    "isolation=[]": "isolation=[[]] is not one of",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments(project: Project, arguments: str) -> None:
    """Typos and wrong values end the collection of their file with the test's name, the reason and the signature."""
    project.write(
        test_it=f"""
        import pytest

        @pytest.mark.lakebranch({arguments})
        def test_misspelt(): ...
        """,
        test_other="def test_it(): ...",
    )
    result = project.run()
    result.assert_outcomes(errors=1)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"*test_it.py::test_misspelt: marker lakebranch: {WRONG[arguments]}*"])
    result.stdout.fnmatch_lines(['*Its signature is lakebranch(?, isolation="test", destructive=False, at=None).'])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_wrong_arguments_with_workers(project: Project) -> None:
    """Workers refuse them in the same way, and the run ends with a message instead of an internal error."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.lakebranch(isolaton="test")
        def test_misspelt(): ...
        """
    )
    result = project.spawn("-n", "2")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_it.py::test_misspelt: marker lakebranch: *'isolaton'*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize(
    "text",
    [
        """
        @pytest.mark.lakebranch(isolation="tset")
        class TestMarked:
            def test_it(self): ...
        """,
        """
        pytestmark = pytest.mark.lakebranch(isolation="tset")

        def test_it(): ...
        """,
        """
        @pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.lakebranch(isolation="tset"))])
        def test_it(x): ...
        """,
        """
        @pytest.mark.destructive
        @pytest.mark.lakebranch(isolation="worker")
        def test_it(): ...
        """,
        """
        import unittest

        @pytest.mark.lakebranch(isolation="tset")
        class TestCase(unittest.TestCase):
            def test_it(self): ...
        """,
    ],
    ids=["class", "module", "parameter", "both", "unittest"],
)
def test_wherever_the_marker_is(project: Project, text: str) -> None:
    """A wrong marker of a class, a module, a parameter or a unittest.TestCase is refused, too, before it runs."""
    project.write(test_it="import pytest\n\n" + "\n".join(line.removeprefix("        ") for line in text.splitlines()))
    result = project.run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*test_it*: marker lakebranch: *Its signature is*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_closest_marker_wins(project: Project) -> None:
    """A test's own marker wins over its class's and module's, argument by argument."""
    project.write(
        test_it="""
        import pytest

        pytestmark = pytest.mark.lakebranch(isolation="worker")

        class TestIt:
            pytestmark = pytest.mark.lakebranch(isolation="run")

            def test_class(self, lakebranch, lakebranch_run):
                assert lakebranch is lakebranch_run

            @pytest.mark.lakebranch(isolation="test", destructive=True)
            def test_own(self, lakebranch):
                assert lakebranch.parent == "base"

            @pytest.mark.destructive
            def test_destructive(self, lakebranch):
                assert lakebranch.parent == "base"

        @pytest.mark.lakebranch(destructive=False)
        class TestSpared:
            @pytest.mark.destructive
            def test_destructive(self, lakebranch): ...

        @pytest.mark.destructive
        class TestDestructive:
            @pytest.mark.lakebranch(destructive=False)
            def test_spared(self, lakebranch): ...

        def test_module(lakebranch, lakebranch_worker):
            assert lakebranch is lakebranch_worker
        """
    )
    result = project.run()
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines(["leases of tests: 4 *, of these 3 destructive; 1 run; 1 worker"])


def test_a_transaction_of_a_class_has_one_branch(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Django TestCase that asks for branches of its tests' own is refused when it is collected, with what to do; not
    in a project that has no setting of ours.
    """
    project.write(
        test_it="""
        import pytest
        from django.test import TestCase

        @pytest.mark.destructive
        class TestIt(TestCase):
            def test_it(self): ...
        """
    )
    result = project.spawn("--lakebranch-autouse")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it.py::TestIt::test_it: *django.test.TestCase*from TransactionTestCase*"])
    monkeypatch.delenv("LAKEBRANCH_HOME")
    assert project.spawn("--co", "-q").ret == pytest.ExitCode.OK


def test_markers_are_listed(project: Project) -> None:
    """pytest --markers shows both, so that --strict-markers accepts them."""
    result = project.run("--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.lakebranch(?, isolation=*", "@pytest.mark.destructive: *"])
