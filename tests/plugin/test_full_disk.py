"""A disk that fills up under a run: it says so, ends, leaves nothing half-made, and the next run is green."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin.conftest import Project, entries, processes

SCHEMA = "create table item (id serial primary key, name text); insert into item (name) values ('one'), ('two');"
BIG = "create table big as select repeat('x', 1000) from generate_series(1, 300000);"
FILLS = """
import pathlib, pytest
from pytest_lakebranch.waiting import Deadline, poll

HERE = pathlib.Path(__file__).parent

@pytest.fixture
def full():
    assert poll(lambda: True if (HERE / "full").exists() else None, deadline=Deadline(60))

def test_fill(lakebranch_conn):
    (HERE / "fill").write_text("please")
    assert poll(lambda: True if (HERE / "full").exists() else None, deadline=Deadline(60))

@pytest.mark.parametrize("number", range(4))
def test_read(full, lakebranch_conn, number):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)

@pytest.mark.parametrize("number", range(4))
def test_write(full, lakebranch, number):
    with lakebranch.connect() as conn:
        conn.execute("insert into item (name) select repeat('x', 1000) from generate_series(1, 100000)")

def test_destroy(full, lakebranch_factory):
    lakebranch_factory()

def test_fork(full, lakebranch):
    with lakebranch.fork() as child, child.connect() as conn:
        conn.execute("delete from item")
"""
WORKS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_write(lakebranch, number):
    with lakebranch.connect() as conn:
        conn.execute("insert into item (name) values ('three')")
    with lakebranch.connect() as conn:
        assert conn.execute("select count(*) from item").fetchone() == (3,)
"""


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.soak)])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk, with the state directory of the test's runs in it."""
    small = tmp_path / "disk"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=250m,mode=700", "tmpfs", str(small)]
    if request.param == "ext4":
        with (tmp_path / "image").open("wb") as image:
            image.truncate(250 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", tmp_path / "image"], check=False)
        mount = ["mount", "-o", "loop", str(tmp_path / "image"), str(small)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip(f"needs root to mount a small {request.param}")
    monkeypatch.setenv("LAKEBRANCH_HOME", str(small / "home"))
    yield small
    subprocess.run(["umount", small], check=True)


@pytest.fixture(autouse=True)
def base(project: Project, disk: Path) -> None:
    """Each project has a table with two rows; branches are copies, which need most room."""
    project.write(schema_dot_sql=SCHEMA)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_storage="copy")


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for block in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))


def check_clean(disk: Path, said: str) -> None:
    """Nothing of a run is left, and it was not said in words of ours for ourselves."""
    assert (entries(disk / "home" / "runs"), processes(disk)) == ([], [])
    for text in ("INTERNALERROR", "Traceback", "the host failed", "pytest_lakebranch/"):
        assert text not in said, said


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_it_fills_up_in_the_middle_of_a_run(project: Project, disk: Path, workers: str) -> None:
    """Tests that only read go on; others fail with what is full; the base stays cached."""
    project.write(test_it=FILLS)
    run = project.start("-n", workers)
    project.wait_for("fill")
    fill(disk)
    (project.path / "full").write_text("yes")
    assert run.wait(timeout=150) == pytest.ExitCode.TESTS_FAILED
    said = project.output
    check_clean(disk, said)
    assert int(re.search(r"(\d+) passed", said)[1]) >= 2, said
    assert "No space left on device" in said
    assert "disk full while" in said
    (disk / "filler").unlink()
    project.write(test_it=WORKS)
    again = project.spawn("-n", workers)
    again.assert_outcomes(passed=4)
    again.stdout.fnmatch_lines(["*base from the cache*"])


@pytest.mark.soak
def test_it_is_full_before_the_run(project: Project, disk: Path) -> None:
    """The run says so, and its next try is green."""
    project.write(test_it=WORKS)
    project.spawn("-k", "0").assert_outcomes(passed=1, deselected=3)
    fill(disk)
    result = project.spawn("-n", "2")
    said = str(result.stdout) + str(result.stderr)
    check_clean(disk, said)
    assert "disk full while" in said, said
    (disk / "filler").unlink()
    project.spawn("-n", "2").assert_outcomes(passed=4)


@pytest.mark.soak
def test_the_base_does_not_fit(project: Project, disk: Path, request: pytest.FixtureRequest) -> None:
    """The step that fills the disk is named; nothing is cached but what is whole; with more room it is built."""
    project.write(test_it=WORKS, more_dot_sql=BIG)
    project.ini(lakebranch_base=["sql:schema.sql", "sql:more.sql"], lakebranch_storage="copy")
    said = str(project.spawn("-n", "2").stdout)
    check_clean(disk, said)
    assert "sql:more.sql failed at more.sql:1" in said
    assert "No space left on device" in said
    if request.node.callspec.params["disk"] == "tmpfs":
        subprocess.run(["mount", "-o", "remount,size=3g", str(disk)], check=True)
        project.spawn("-n", "2").assert_outcomes(passed=4)
