"""``lakebranch ls``, ``open`` and ``reap``: runs that live, and what dead ones left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.state import State, make_private, write_owner
from tests.plugin.cli_rigs import Command, Standing, standing, wait_until
from tests.plugin.conftest import Project, entries, left_behind

COUNT = ("--", "-tAc", "select count(*) from item")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


@pytest.fixture
def running(project: Project) -> Iterator[Standing]:
    """A run whose test stands still."""
    with standing(project) as found:
        yield found


@pytest.fixture(params=["auto", "copy"])
def dead(request: pytest.FixtureRequest, project: Project, command: Command) -> Iterator[Standing]:
    """What is left of a run that was killed with -9 in the middle of a test: host, controller, servers."""
    with standing(project, lakebranch_storage=request.param) as found:
        found.kill()
        yield found
    command("reap")


def test_nothing(command: Command) -> None:
    """Without runs there is nothing to list and nothing to reap."""
    assert command("ls").out == "no runs\n"
    assert command("ls", "--json").json["runs"] == []
    assert command("reap").out == "nothing was left behind\n"


def test_ls_of_a_running_run(running: Standing, command: Command) -> None:
    """The run is listed with its project, the leased branch with its test and size, spares as such."""
    (run,) = command("ls", "--json").json["runs"]
    assert (run["state"], run["root"]) == ("running", str(running.project.path))
    leased = [branch for branch in run["branches"] if branch["state"] == "leased"]
    assert [(one["branch"], one["test"], one["worker"], one["purpose"]) for one in leased] == [
        (running.branch, "test_standing.py::test_standing", "main", "test")
    ]
    assert leased[0]["bytes"] > 0
    assert Path(leased[0]["directory"]).is_dir()
    said = command("ls").out
    assert "test_standing.py::test_standing (main)" in said
    assert "reap" not in said


def test_open_by_test_and_by_branch(running: Standing, command: Command) -> None:
    """psql sees what the test wrote, by whichever name the branch is opened, and what it does reaches no test."""
    (run,) = command("ls", "--json").json["runs"]
    for name in ("test_standing.py::test_standing", running.branch, f"{run['run'][:6]}/{running.branch}"):
        said = command("open", name, *COUNT)
        assert (said.code, said.out) == (0, "3\n"), said.err
    assert command("open", running.branch, "--", "-c", "drop table item").code == 0
    assert "1 passed" in running.end()


def test_open_ends_with_the_code_of_psql(running: Standing, command: Command) -> None:
    """The exit code is psql's own."""
    assert command("open", running.branch, "--", "-v", "ON_ERROR_STOP=1", "-c", "nonsense").code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_open_prints_a_url_and_waits(
    running: Standing, command: Command, number: signal.Signals, shared_home: Path, sockets: Path
) -> None:
    """The URL leads to a copy while the command runs; interrupted, it removes the copy; killed, the reaper does."""
    before = entries(shared_home / "runs"), entries(sockets)
    words = [sys.executable, "-c", "from pytest_lakebranch.cli import main; raise SystemExit(main())"]
    with subprocess.Popen(
        [*words, "open", running.branch, "--print", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()
        facts = json.loads(_object(iter(process.stdout)))
        with psycopg.connect(facts["url"]) as conn:
            assert conn.execute("select count(*) from item").fetchone() == (3,)
            server = psutil.Process(conn.info.backend_pid).parent()
        process.send_signal(number)
        code = process.wait(timeout=30)
    assert code == (-9 if number == signal.SIGKILL else 0)
    if number == signal.SIGKILL:
        wait_until(lambda: len(command("reap", "--json").json["runs"]) == 1)
    wait_until(lambda: server is None or not server.is_running() or server.status() == "zombie")
    assert (entries(shared_home / "runs"), entries(sockets)) == before


def _object(lines: Iterator[str]) -> str:
    """The lines of one JSON object, as soon as they are there."""
    text = ""
    for line in lines:
        text += line
        if line == "}\n":
            return text
    return text


def test_ls_and_open_after_a_run_was_killed(dead: Standing, command: Command) -> None:
    """A dead run's branches are listed as left behind, and open as they were when their servers died."""
    (run,) = command("ls", "--json").json["runs"]
    assert run["state"] == "left behind"
    assert "lakebranch reap" in command("ls").out
    said = command("open", "test_standing.py::test_standing", *COUNT)
    assert (said.code, said.out) == (0, "3\n"), said.err
    again = command("open", dead.branch, *COUNT)
    assert (again.code, again.out) == (0, "3\n"), again.err


def test_reap(dead: Standing, command: Command, shared_home: Path, sockets: Path) -> None:
    """A dry run names what would go and touches nothing; then it goes."""
    (name,) = entries(shared_home / "runs")
    assert command("reap", "--dry-run").out == f"would delete run {name}\n"
    assert entries(shared_home / "runs") == [name]
    assert command("reap", "--json").json == {"version": 1, "dry_run": False, "runs": [name], "kept": [], "left": {}}
    assert left_behind(shared_home, sockets) == []


@pytest.fixture
def abandoned(shared_home: Path, sockets: Path, tmp_path: Path) -> Iterator[Path]:
    """The directory of a run that died before its host had claimed it; its sockets are where nobody looks any more."""
    state = State.at(str(shared_home)).ensure()
    directory = make_private(state.runs / "0123456789ab4def")
    make_private(directory / "branches" / "b1")
    ended = subprocess.Popen(["sleep", "60"])
    write_owner(directory, Identity.of(ended.pid))
    ended.kill()
    ended.wait()
    (tmp_path / "r0123456789ab").mkdir()
    (directory / "run.json").write_text(json.dumps({"sockets": str(tmp_path / "r0123456789ab")}))
    yield directory
    remove_tree(directory)


def test_looking_changes_nothing(abandoned: Path, command: Command) -> None:
    """Neither a list nor a dry run leaves anything in a directory that nobody has claimed."""
    before = entries(abandoned)
    for _ in range(2):
        assert command("ls", "--json").json["runs"][0]["state"] == "left behind"
        assert command("reap", "--dry-run").out == f"would delete run {abandoned.name}\n"
    assert entries(abandoned) == before


def test_sockets_in_another_place(abandoned: Path, command: Command, tmp_path: Path) -> None:
    """The sockets of a dead run go with it, although temporary files are elsewhere by now; nothing else goes."""
    (tmp_path / "other").mkdir()
    assert command("reap").out == f"deleted run {abandoned.name}\n"
    assert (entries(tmp_path), abandoned.exists()) == (["other"], False)


def test_what_cannot_be_deleted(abandoned: Path, command: Command) -> None:
    """It is said, also by the exit code, and is still there for the next time."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount")
    place = abandoned / "branches" / "b1"
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    try:
        said = command("reap")
    finally:
        subprocess.run(["umount", place], check=True)
    why = f"b1 in {place.parent} could not be deleted: Device or resource busy"
    assert (said.code, said.out) == (1, f"left as it is: {abandoned.name}: {why}\n")
    assert command("reap").out == f"deleted run {abandoned.name}\n"


def test_a_dead_run_with_branches_in_a_cloud(abandoned: Path, command: Command) -> None:
    """A dry run and a real one agree that it stays, and say what deletes it."""
    (abandoned / "cloud.json").write_text("{}")
    for words in (["--dry-run"], []):
        said = command("reap", *words)
        assert said.code == (0 if words else 1)
        assert said.out.startswith(f"left as it is: {abandoned.name}: its branches in a cloud are not deleted yet")
        assert "`lakebranch reap --provider lakebase`" in said.out


def test_reap_leaves_the_living_alone(running: Standing, command: Command) -> None:
    """A run that lives is neither named nor touched."""
    assert command("reap", "--dry-run", "--json").json["runs"] == []
    assert command("reap").out == "nothing was left behind\n"
    assert "1 passed" in running.end()


def test_a_damaged_branch(dead: Standing, command: Command) -> None:
    """A branch whose files are gone is one message that names what is missing."""
    (run,) = command("ls", "--json").json["runs"]
    (directory,) = (Path(one["directory"]) for one in run["branches"] if one["branch"] == dead.branch)
    for path in (directory / "data" / "PG_VERSION", directory / "data" / "global" / "pg_control"):
        path.unlink(missing_ok=True)
    if (directory / "upper").exists():
        (directory / "upper" / "global" / "pg_control").write_bytes(b"")
    said = command("open", dead.branch)
    assert (said.code, said.out) == (1, "")
    assert f"{dead.branch} is damaged" in said.err
    (directory / "branch.json").write_text("{")
    assert f"there is no branch '{dead.branch}'" in command("open", dead.branch).err


def test_damaged_records_of_a_run(dead: Standing, command: Command, shared_home: Path) -> None:
    """A run whose records cannot be read is listed all the same, and reaped."""
    (name,) = entries(shared_home / "runs")
    (shared_home / "runs" / name / "run.json").write_text("nonsense")
    (shared_home / "runs" / name / "ledger.jsonl").write_text('{"event": "lease"}\n[]\nnonsense\n')
    (run,) = command("ls", "--json").json["runs"]
    assert (run["run"], run["root"], run["state"]) == (name, None, "left behind")
    assert {branch["state"] for branch in run["branches"]} == {"spare"}


def test_what_is_not_there(running: Standing, command: Command) -> None:
    """A missing branch, test or layer is a message that says what there is."""
    said = command("open", "b999")
    assert (said.code, said.out) == (1, "")
    assert "there is no branch 'b999'" in said.err
    assert running.branch in said.err
    assert "a test's branch goes when the test ends" in command("open", "test_standing.py::test_other").err
    assert "there is no branch '0000000'" in command("open", "0000000").err


def test_the_same_name_in_two_runs(
    running: Standing, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A branch name that two runs have is refused with both full names; a test's name is not that of other projects."""
    other = tmp_path_factory.mktemp("other")
    for name in ("schema.sql", "test_standing.py", "pytest.ini"):
        (other / name).write_text((running.project.path / name).read_text())
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=other, stdout=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: (other / "ready").exists() and (other / "ready").read_text())
        said = command("open", running.branch)
        assert said.code == 1
        assert said.err.count(f"/{running.branch}") == 2
        monkeypatch.chdir(elsewhere := tmp_path_factory.mktemp("third"))
        said = command("open", "test_standing.py::test_standing")
        assert (said.code, said.out) == (1, "")
        assert f"is left in {elsewhere}: " in said.err
        for project in (other, running.project.path):
            assert f"is that of a test of this name in {project}." in said.err
    finally:
        (other / "go").write_text("")
        process.wait(timeout=60)


@pytest.mark.parametrize("words", ["ls", "reap", "layers ls", "layers prune --all", "open b1"])
def test_a_home_that_is_misspelt(command: Command, tmp_path: Path, words: str) -> None:
    """A directory that is no state directory is said to be none, and nothing is made there."""
    for place in (tmp_path, tmp_path / "hmoe"):
        said = command(*words.split(), "--home", str(place))
        assert (said.code, said.out) == (1, "")
        assert f"{place}, as --home says, is no state directory" in said.err
    assert entries(tmp_path) == []


@pytest.mark.parametrize("option", ["--print", "--json"])
def test_arguments_for_nobody(command: Command, option: str) -> None:
    """Where psql is not run, arguments for it are wrong usage."""
    said = command("open", "b1", option, "--", "-c", "select 1")
    assert (said.code, said.out) == (2, "")
    assert "-c select 1: arguments for psql" in said.err


def test_somebody_elses_state_directory(command: Command, tmp_path: Path) -> None:
    """A state directory that is another user's is left alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make another user's directory")
    (tmp_path / "FORMAT").write_text("1\n")
    (tmp_path / "layers").mkdir(mode=0o700)
    os.chown(tmp_path / "layers", 65534, 65534)
    for words in ("ls", "reap", "layers ls", "open b1"):
        said = command(*words.split(), "--home", str(tmp_path))
        assert (said.code, said.out) == (1, ""), words
        assert f"{tmp_path / 'layers'} is not a directory of uid 0" in said.err
