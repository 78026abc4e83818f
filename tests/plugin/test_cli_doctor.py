"""``lakebranch doctor``: what it finds, and that its advice can be followed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from pytest_lakebranch.cli import advice
from pytest_lakebranch.cli.examination import Findings
from pytest_lakebranch.config import RUNGS
from tests.plugin.cli_rigs import Command, layer_directories
from tests.plugin.conftest import Project, left_behind


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


def test_findings(
    project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sockets: Path
) -> None:
    """It names PostgreSQL, directories and rungs, measures the one that branches would use, and leaves nothing."""
    monkeypatch.chdir(project.path)
    home = tmp_path / "home"
    found = command("doctor", "--json", "--home", str(home)).json
    assert found["ok"] is True
    assert found["problems"] == []
    assert Path(found["postgres"]["directory"], "postgres").exists()
    assert found["state"]["directory"] == str(home)
    assert found["state"]["free_bytes"] > 0
    assert [rung["rung"] for rung in found["rungs"]] == list(RUNGS)
    assert sum(rung["chosen"] for rung in found["rungs"]) == 1
    assert found["measured"]["branches"] == 5
    assert found["measured"]["start_ms"] > found["measured"]["clone_ms"] > 0
    assert (left_behind(home, sockets), layer_directories(home)) == ([], [])


def test_for_a_person(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forced rung is marked, with its reason, what each other one says, and what was measured."""
    project.ini(lakebranch_storage="copy")
    monkeypatch.chdir(project.path)
    said = command("doctor")
    assert said.code == 0
    assert "* copy      asked for; state directory is" in said.out
    assert "a branch of it made, started and connected to in" in said.out


def test_problems(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What does not work is said, each thing once, and makes the exit code 1; the rest is examined all the same."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("LAKEBRANCH_POSTGRES", str(tmp_path))
    found = command("doctor", "--json")
    assert found.code == 1
    assert found.json["ok"] is False
    assert [str(tmp_path) in problem for problem in found.json["problems"]] == [True]
    assert found.json["postgres"] is None
    assert found.json["rungs"] != []
    assert "DOES NOT WORK: lakebranch_postgres" in command("doctor").out


def test_advice_fits_the_rung(tmp_path: Path) -> None:
    """A machine whose branches are snapshots needs no advice; one that copies is told of a volume."""
    assert advice.advice("snapshot", namespaces=True, home=tmp_path) == []
    commands = [line for one in advice.advice("copy", namespaces=True, home=tmp_path) for line in one.commands]
    assert any(line.startswith("mkfs.btrfs") for line in commands)
    assert commands[-1].startswith("export LAKEBRANCH_HOME=")


def test_the_advice_can_be_followed(command: Command, tmp_path: Path) -> None:
    """The commands for a btrfs volume, run as they are written, lead to snapshots."""
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs root and mkfs.btrfs")
    image, mount = tmp_path / "my volume's" / "volume.btrfs", tmp_path / "my mount"
    script = "\n".join(["set -e", *advice.btrfs_volume(image, mount, 1), 'echo "$LAKEBRANCH_HOME"'])
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    if "loop" in done.stderr:
        pytest.skip(f"a loop device cannot be mounted: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    try:
        assert done.stdout.endswith(f"{mount}\n")
        found = command("doctor", "--json", "--home", str(mount)).json
    finally:
        subprocess.run(["umount", mount], check=True)
    assert [rung["rung"] for rung in found["rungs"] if rung["chosen"]] == ["snapshot"]
    assert found["advice"] == []


def test_errors_that_are_not_ours(tmp_path: Path) -> None:
    """What the system or PostgreSQL refuses is a problem among the findings; a defect of ours is not hidden."""
    found = Findings()
    assert found.tried((tmp_path / "gone").read_text) is None
    assert found.tried(psycopg.connect, f"host={tmp_path} port=1") is None
    assert found.problems[0] == f"No such file or directory: {tmp_path / 'gone'}"
    assert found.problems[1].startswith("PostgreSQL says: ")
    with pytest.raises(ZeroDivisionError):
        found.tried(divmod, 1, 0)
