"""``--lakebranch-keep``: which branches survive the run, as what, how they are opened, and when they go."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.cli_rigs import SCHEMA, Command
from tests.plugin.conftest import SOON, Project, entries
from tests.plugin.test_report import read

SUITE = """
import os, pytest

def write(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("insert into item (name) values ('three')")
        conn.execute("create unlogged table note as select 'seen' as x")
        conn.execute("drop table if exists gone")

def test_fails(lakebranch):
    write(lakebranch)
    assert not "reached"

def test_passes(lakebranch):
    write(lakebranch)

def test_reads(lakebranch_conn):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)

@pytest.mark.xfail
def test_expected(lakebranch):
    write(lakebranch)
    assert not "reached"
"""
COUNT = ("--", "-tAc", "select count(*) from item")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


@pytest.fixture(autouse=True)
def base(project: Project, command: Command) -> Iterator[None]:
    """A project with a table of two rows; no kept branch stays behind."""
    project.write(schema_dot_sql=SCHEMA + "create table gone (x int)")
    project.ini(lakebranch_base="sql:schema.sql")
    yield
    command("reap", "--kept")
    assert entries(project.home / "kept") == []


def note_of(project: Project) -> Path:
    """The note of the one kept branch."""
    (name,) = entries(project.home / "kept")
    return project.home / "kept" / name / "kept.json"


def spend(note: Path, seconds: float) -> None:
    """Have so much of a kept branch's time passed already."""
    stored = json.loads(note.read_text())
    note.write_text(json.dumps({**stored, "until": stored["until"] - seconds}))


@pytest.mark.parametrize("storage", ["auto", "copy"])
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.soak), "2"])
def test_the_branch_of_a_failed_test(project: Project, command: Command, workers: str, storage: str) -> None:
    """It is the only one that is kept; the failure says how to open it, the list how large and for how long."""
    project.write(test_it=SUITE)
    result = project.spawn("-n", workers, "--lakebranch-keep=failed", f"--lakebranch-storage={storage}")
    result.assert_outcomes(passed=2, failed=1, xfailed=1)
    said = str(result.stdout)
    assert said.count("as the test leaves it: lakebranch open test_it.py::test_fails") == 1
    assert "kept until" in said
    (run,) = command("ls", "--json").json["runs"]
    (branch,) = run["branches"]
    assert (run["state"], run["root"], branch["state"]) == ("over", str(project.path), "kept")
    assert branch["test"] == "test_it.py::test_fails"
    assert branch["bytes"] > 0
    assert 86400 - 300 < branch["kept_until"] - time.time() < 86400
    assert "for 24 h more" in command("ls").out
    for name in ("test_it.py::test_fails", branch["branch"]):
        said = command("open", name, *COUNT)
        assert (said.code, said.out) == (0, "3\n"), said.err
    look = "select (select x from note), to_regclass('gone') is null"
    assert command("open", branch["branch"], "--", "-tAc", look).out == "seen|t\n"


def test_always_and_never(project: Project, command: Command) -> None:
    """``always`` keeps every test's own branch, ``never`` is what happens without the setting."""
    project.write(test_it=SUITE)
    project.spawn()
    assert entries(project.home / "kept") == []
    project.spawn("--lakebranch-keep=always", "--lakebranch-report=report.json", "--lakebranch-report=report.html")
    report = read(project.path / "report.json")
    assert report["totals"]["endings"] == {"clean": 0, "rewind": 0, "replace": 0, "keep": 4}
    assert [one["test"] for one in report["kept"]] == [lease["test"] for lease in report["leases"]]
    assert {lease["end"]["reason"] for lease in report["leases"]} == {"asked for", "failed in call"}
    assert "lakebranch open test_it.py::test_passes" in (project.path / "report.html").read_text()
    assert len(command("ls", "--json").json["runs"][0]["branches"]) == 4


def test_the_ledger_says_keep(project: Project) -> None:
    """While the run lives its ledger says which lease ended so, and its list shows the kept branch beside others."""
    project.write(
        test_it="""
        import json, os, pathlib, subprocess, sys

        def test_fails(lakebranch):
            assert not "reached"

        def test_look(lakebranch):
            (run,) = pathlib.Path(os.environ["LAKEBRANCH_HOME"], "runs").iterdir()
            ends = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
            assert [end["ending"] for end in ends if end["event"] == "release"] == ["keep"]
            words = [sys.executable, "-c", "from pytest_lakebranch.cli import main; main()", "ls", "--json"]
            (found,) = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["runs"]
            assert found["state"] == "running"
            assert {branch["state"] for branch in found["branches"]} >= {"kept", "leased"}
        """
    )
    project.spawn("--lakebranch-keep=failed").assert_outcomes(passed=1, failed=1)


def test_its_time(project: Project, command: Command) -> None:
    """The reaper deletes it when its time is over, and not before; a dry run names it."""
    project.write(test_it="def test_fails(lakebranch):\n    assert not 'reached'\n")
    project.spawn("--lakebranch-keep=failed", "--lakebranch-keep-for=2h")
    note = note_of(project)
    assert command("reap", "--json").json == {"version": 1, "dry_run": False, "runs": [], "kept": [], "left": {}}
    spend(note, 7000)
    assert command("reap").out == "nothing was left behind\n"
    spend(note, 300)
    name = note.parent.name
    assert command("reap", "--dry-run").out == f"would delete kept branch {name}\n"
    project.write(test_it="def test_it(lakebranch): ...")
    project.spawn().assert_outcomes(passed=1)
    assert entries(project.home / "kept") == []


def test_a_damaged_note(project: Project, command: Command) -> None:
    """A kept branch whose note is damaged is not listed, has a day, and then goes."""
    project.write(test_it="def test_fails(lakebranch):\n    assert not 'reached'\n")
    project.spawn("--lakebranch-keep=failed")
    note = note_of(project)
    note.write_text("{")
    assert command("ls").out == "no runs\n"
    assert command("reap").out == "nothing was left behind\n"
    os.utime(note.parent, (time.time() - 90000,) * 2)
    assert command("reap").out == f"deleted kept branch {note.parent.name}\n"


@pytest.mark.soak
def test_it_pins_its_layer(project: Project, command: Command) -> None:
    """An overlay's layer is neither pruned nor, when it is built anew, swept, while a kept branch stands on it."""
    project.write(test_it=SUITE)
    result = project.spawn("--lakebranch-keep=failed", "--lakebranch-storage=overlay", "-k", "fails")
    if "lakebranch_storage is 'overlay', but" in str(result.stderr):
        pytest.skip("no overlays here")
    stands_on = Path(json.loads(note_of(project).read_text())["stands_on"])
    assert stands_on.is_dir()
    pruned = command("layers", "prune", "--all", "--json").json
    assert stands_on.parent.name in pruned["in_use"]
    project.spawn("--lakebranch-rebuild", "-k", "passes").assert_outcomes(passed=1, deselected=3)
    assert command("open", "test_it.py::test_fails", *COUNT).out == "3\n"
    command("reap", "--kept")
    project.spawn("-k", "passes").assert_outcomes(passed=1, deselected=3)
    assert poll(lambda: None if stands_on.exists() else True, deadline=Deadline(SOON))


def test_a_branch_of_the_workers_branch(project: Project, command: Command) -> None:
    """What it was forked from goes with the run; it stands alone."""
    project.write(
        test_it="""
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def more(lakebranch_worker):
            with lakebranch_worker.connect() as conn:
                conn.execute("insert into item (name) values ('three'), ('four')")

        def test_fails(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item (name) values ('five')")
            assert not "reached"
        """
    )
    project.spawn("--lakebranch-keep=failed").assert_outcomes(failed=1)
    said = command("open", "test_it.py::test_fails", *COUNT)
    assert (said.code, said.out) == (0, "5\n"), said.err


@pytest.mark.soak
def test_a_test_that_killed_its_worker(project: Project, command: Command) -> None:
    """It failed, and so its branch is kept."""
    project.write(
        test_it="""
        import os

        def test_exit(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item (name) values ('three')")
            os._exit(1)
        """
    )
    project.spawn("-n", "1", "--lakebranch-keep=failed", "--max-worker-restart=0")
    said = command("open", "test_it.py::test_exit", *COUNT)
    assert (said.code, said.out) == (0, "3\n"), said.err


@pytest.mark.soak
def test_the_newest_of_this_project_is_opened(project: Project, command: Command) -> None:
    """A test that failed in several runs has several kept branches."""
    for rows in (1, 2):
        values = ", ".join("('more')" for _ in range(rows))
        project.write(
            test_it=f"""
            def test_fails(lakebranch):
                with lakebranch.connect() as conn:
                    conn.execute("insert into item (name) values {values}")
                assert not "reached"
            """
        )
        project.spawn("--lakebranch-keep=failed")
    assert command("open", "test_it.py::test_fails", *COUNT).out == "4\n"


def test_a_server_that_died(project: Project, command: Command) -> None:
    """The failure says so, the next test has a sound branch, and what the server left is kept."""
    project.write(
        test_it="""
        import os, signal
        from pathlib import Path

        def kill(conn):
            postmaster = int(Path(f"/proc/{conn.info.backend_pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            os.kill(postmaster, signal.SIGKILL)
            os.kill(conn.info.backend_pid, signal.SIGKILL)

        def test_notices(lakebranch_conn):
            kill(lakebranch_conn)
            lakebranch_conn.execute("select 1")

        def test_does_not(lakebranch_conn):
            kill(lakebranch_conn)

        def test_next(lakebranch_conn):
            assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
        """
    )
    result = project.spawn("--lakebranch-keep=failed")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    said = str(result.stdout)
    assert said.count("the server of this test's branch (b") >= 2
    assert said.count("and the test did not fail of it") >= 1
    assert "INTERNALERROR" not in said
    assert command("open", "test_it.py::test_notices", *COUNT).out == "2\n"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("keep=sometimes", "'sometimes' is not one of failed, always, never"),
        ("keep-for=soon", "lakebranch_keep_for: 'soon' is not a span of time"),
        ("keep-for=-1d", "lakebranch_keep_for: '-1d' is not a span of time"),
        ("cache-size=lots", "lakebranch_cache_size: 'lots' is not a size such as 500M or 2G"),
    ],
)
def test_nonsense(project: Project, setting: str, said: str) -> None:
    """A setting that is written wrongly is a usage error."""
    project.write(test_it="def test_it(lakebranch): ...")
    result = project.spawn(f"--lakebranch-{setting}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in str(result.stderr)


def test_a_note_of_another_version(project: Project, command: Command) -> None:
    """A branch whose note lacks a setting opens with the settings of the present directory."""
    project.write(test_it="def test_fails(lakebranch): assert not 'reached'")
    project.run("--lakebranch-keep=failed").assert_outcomes(failed=1)
    note = note_of(project)
    stored = json.loads(note.read_text())
    stored["settings"].pop("env")
    note.write_text(json.dumps(stored))
    said = command("open", "test_it.py::test_fails", *COUNT)
    assert (said.code, said.out) == (0, "2\n"), said.err
