"""Whole runs on the emulator whose processes are killed: what is left, who deletes it, and what nobody deletes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from lakebase_runs import Emulated, assert_nothing_left, command, environ, hosts, ours

from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.providers.lakebase.names import Name, owner_of
from tests.plugin.conftest import Project

pytest_plugins = ["lakebase_run_fixtures"]


@pytest.fixture
def others(cloud: Emulated) -> Iterator[list[str]]:
    """Branches beside those of a run: somebody's, another owner's, and another run's of the same owner, all in use."""
    soon, we, they = time.time() + 86400, owner_of(USER), owner_of("other@example.com")
    names = ["somebodys", str(Name(they, "2" * 8, "b1", soon)), str(Name(we, "1" * 8, "b1", soon))]
    for name in names:
        cloud.branch(name=name)
    yield names
    cloud.clear()


@pytest.mark.parametrize(
    "victim",
    ["controller", pytest.param("host", marks=pytest.mark.soak), pytest.param("both", marks=pytest.mark.soak)],
)
def test_killed(cloud: Emulated, project: Project, others: list[str], victim: str) -> None:
    """The host deletes all when pytest is killed; when the host is, its tests are told and the next run deletes, or the
    reaper. Nothing else is deleted, and processes show no secret.
    """
    project.write(
        test_it="""
        import pathlib
        from pytest_lakebranch.waiting import Deadline, poll

        def test_wait(lakebranch):
            pathlib.Path("started.txt").write_text("x")
            assert poll(lambda: pathlib.Path("go.txt").exists() or None, deadline=Deadline(60))

        def test_next(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
        """,
    )
    run = project.start()
    project.wait_for("started.txt")
    (host,) = hosts(project.home)
    secret = environ(cloud)["DATABRICKS_TOKEN"]
    family = [psutil.Process(run.pid), host, *host.children(recursive=True)]
    assert not any(secret in word for process in family for word in process.cmdline())
    assert len(ours(cloud)) >= 2 + 2
    for process in {"controller": family[:1], "host": [host], "both": family[:2]}[victim]:
        process.kill()
    (project.path / "go.txt").touch()
    run.wait()
    if victim == "both":
        host.wait(10)
        reaped = command(project, "reap", "--provider", "lakebase")
        reaped.stdout.fnmatch_lines(["deleted projects/demo/branches/lakebranch-*"])
        assert not any(name in str(reaped.stdout) for name in others)
    elif victim == "host":
        assert "the host of this run is gone" in project.output
        project.spawn().assert_outcomes(passed=2)
    assert_nothing_left(cloud, *others)
    command(project, "reap")  # the place of the application's URL, which a killed process cannot remove itself


@pytest.mark.soak
def test_a_worker_is_killed(cloud: Emulated, project: Project) -> None:
    """Its test fails, the others pass on branches of their own, and nothing of its branch is left."""
    project.write(
        test_it="""
        import app, os, pathlib, pytest, time

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, lakebranch):
            assert app.count() == 2
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
            if number == 0:
                pathlib.Path("started.txt").write_text(str(os.getpid()))
                time.sleep(60)
        """,
    )
    run = project.start("-n", "2")
    os.kill(int(project.wait_for("started.txt")), signal.SIGKILL)
    run.wait()
    assert "1 failed, 3 passed" in project.output
    assert "crashed while running" in project.output
    assert_nothing_left(cloud)


@pytest.mark.soak
def test_what_a_run_left_behind_is_reaped(cloud: Emulated, project: Project) -> None:
    """A service whose deletions fail for good: the run ends and says so, and the reaper knows what there is to do."""
    project.write(test_it="def test_it(lakebranch_conn): lakebranch_conn.execute('delete from item')")
    cloud.emulator.faults.add({"route": "delete_branch", "kind": "operation", "status": 500, "times": None})
    try:
        run = project.start()
        run.wait()
    finally:
        cloud.emulator.faults.clear()
    print(project.output)
    assert "1 passed" in project.output
    assert "deleting projects/demo/branches/lakebranch-" in project.output
    assert len(ours(cloud)) >= 2
    command(project, "reap", "--provider", "lakebase").stdout.fnmatch_lines(["deleted projects/demo/branches/*"])
    assert_nothing_left(cloud)
    command(project, "reap").stdout.fnmatch_lines(["deleted run *"])
