"""Whole runs on the emulator whose processes are killed: what is left, who deletes it, and what nobody deletes."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
from lakebase_runs import Emulated, assert_nothing_left, command, environ, hosts, ours

from tests.plugin.conftest import Project

pytest_plugins = ["lakebase_run_fixtures"]


@pytest.mark.parametrize("victim", ["controller", "host"])
@pytest.mark.soak
def test_killed(cloud: Emulated, project: Project, victim: str) -> None:
    """The host deletes all when pytest is killed; when the host is, the next run or the reaper does. Processes show no
    secret."""
    project.write(
        test_it="""
        import pathlib, time

        def test_wait(lakebranch):
            pathlib.Path("started.txt").write_text("x")
            time.sleep(60)
        """,
    )
    run = project.start()
    project.wait_for("started.txt")
    (host,) = hosts(project.home)
    secret = environ(cloud)["DATABRICKS_TOKEN"]
    family = [psutil.Process(run.pid), host, *host.children(recursive=True)]
    assert not any(secret in word for process in family for word in process.cmdline())
    assert len(ours(cloud)) >= 2
    os.kill(run.pid if victim == "controller" else host.pid, signal.SIGKILL)
    if victim == "host":
        run.kill()
        host.wait(10)
        reaped = command(project, "reap", "--provider", "lakebase")
        reaped.stdout.fnmatch_lines(["deleted projects/demo/branches/lakebranch-*"])
    run.wait()
    assert_nothing_left(cloud)
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
