"""Commands on a Lakebase project, and the branches that runs keep for them."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable

import pytest
from cli_rigs import Command, Said
from lakebase_runs import Emulated, command, ours

from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.providers.lakebase.names import Name, owner_of
from pytest_lakebranch.state import ALIVE
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import Project
from tests.plugin.test_cli_documented import SECTION

pytest_plugins = ["lakebase_run_fixtures"]


def test_the_branch_of_a_failed_test_is_kept(cloud: Emulated, project: Project) -> None:
    """As the test left it, with a time to go; `lakebranch ls` and `open` know it."""
    project.ini(lakebranch_provider="lakebase", lakebranch_source=cloud.project)
    project.write(
        test_it="""
        def test_fails(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item values (11)")
            assert not "reached"

        def test_passes(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
        """,
    )
    result = project.spawn("--lakebranch-keep=failed")
    result.assert_outcomes(passed=1, failed=1)
    try:
        assert poll(lambda: True if len(ours(cloud)) == 1 else None, deadline=Deadline(20)), ours(cloud)
        listed = command(project, "ls", "--provider", "lakebase", "--json")
        (found,) = json.loads("\n".join(listed.outlines))["branches"]
        result.stdout.fnmatch_lines([f"*lakebranch open {found['tag']} --provider lakebase*"])
        assert found["expires"]
        words = ("open", "--provider", "lakebase", found["tag"], "--", "-tAc", "select count(*) from item")
        command(project, *words).stdout.fnmatch_lines(["11"])
    finally:
        cloud.clear()


@pytest.mark.parametrize("keep_template", [False, True], ids=["its own template", "a kept template"])
@pytest.mark.soak
def test_branches_of_a_template_are_kept(cloud: Emulated, project: Project, keep_template: bool) -> None:
    """With what they come from, also where they were forked; the run ends, and another one keeps more of them."""
    project.write(
        test_it="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_fails(number, lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item values (11)")
            with lakebranch.fork() as child, child.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (4,)

        def test_fails_on_a_fork(lakebranch_worker, lakebranch):
            assert not "reached"

        def test_passes(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("delete from item")
        """,
    )
    if keep_template:
        text = (project.path / "pytest.ini").read_text()
        (project.path / "pytest.ini").write_text(f"{text}lakebranch_keep_template = true\n")
    try:
        for number in (1, 2):
            result = project.spawn("-n", "2", "--lakebranch-keep=failed")
            result.assert_outcomes(passed=1, failed=3)
            for word in ("could not be kept", "left behind"):
                result.stdout.no_fnmatch_line(f"*{word}*")
            assert poll(lambda: True if is_kept_alone(cloud, number) else None, deadline=Deadline(20)), ours(cloud)  # noqa: B023
            templates = [name for name in ours(cloud) if "-t" in name or "-k" in name]
            assert len(templates) == (1 if keep_template else number)
        assert command(project, "ls", "--provider", "lakebase").ret == 0
    finally:
        cloud.clear()


def is_kept_alone(cloud: Emulated, runs: int) -> bool:
    """Whether there are the three branches that each run has kept, and else only what they come from.

    One of the three may be what another was forked from, when it had been the worker's before: then it cannot expire.
    """
    with cloud.emulator.world.lock:
        branches = list(cloud.emulator.world.projects["demo"].branches.values())
    parents = {each.origin.branch for each in branches}
    kept = [each for each in branches if each.expires is not None]
    others = [each for each in branches if each.expires is None and not each.is_default]
    return 2 * runs <= len(kept) <= 3 * runs and all(each.name in parents for each in others)


def test_commands(cloud: Emulated, project: Project) -> None:
    """doctor, ls and open on the project."""
    command(project, "doctor", "--provider", "lakebase").stdout.fnmatch_lines(
        ["identity   developer@example.com", "source     projects/demo/branches/production"]
    )
    command(project, "ls", "--provider", "lakebase").stdout.fnmatch_lines(["no branches of ours"])
    failed = command(project, "open", "b1", "--provider", "lakebase")
    failed.stderr.fnmatch_lines(["lakebranch: 'b1' is no branch of ours in projects/demo: none.*"])


@pytest.fixture
def run(
    cloud: Emulated, project: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """``lakebranch`` on the cloud, in this process and the project's directory."""
    monkeypatch.chdir(project.path)
    return lambda name, *words: Command(capfd)(name, "--provider", "lakebase", *words)


def test_reap(cloud: Emulated, run: Callable[..., Said]) -> None:
    """--dry-run names what would go and deletes nothing; what cannot be deleted is an error that names it, and goes
    the next time.
    """
    dead = str(Name(owner_of(USER), "7" * 8, "b1", time.time() - 3 * 86400))
    path = cloud.branch(name=dead).name
    try:
        assert run("reap", "--dry-run") == Said(0, f"would delete {path}\n", "")
        assert run("reap", "--dry-run", "--json").json["branches"] == [path]
        assert ours(cloud) == [dead]
        cloud.emulator.faults.add({"kind": "status", "status": 403, "route": "delete_branch"})
        failed = run("reap")
        assert (failed.code, failed.out, ours(cloud)) == (1, "", [dead])
        assert failed.err.startswith(f"lakebranch: deleting {path}: 403 PERMISSION_DENIED: ")
        assert "Request id: " in failed.err
        assert run("reap") == Said(0, f"deleted {path}\n", "")
        assert poll(lambda: None if ours(cloud) else True, deadline=Deadline(10))
        assert run("reap") == Said(0, "nothing was left behind\n", "")
    finally:
        cloud.emulator.faults.clear()
        cloud.clear()


def test_what_reap_may_not_delete(cloud: Emulated, project: Project, run: Callable[..., Said]) -> None:
    """What another identity's dead run left is named, with the reason, and is the exit code."""
    directory = project.home / "runs" / "theirs"
    directory.mkdir(parents=True)
    try:
        (directory / ALIVE).touch()
        other = owner_of("other@example.com")
        CloudRecord(cloud.url, cloud.project, "7" * 8, other, time.time() + 3600).write(directory)
        said, told = run("reap"), run("reap", "--json")
        assert (said.code, told.code, run("reap", "--dry-run").code) == (1, 1, 0)
        assert said.out.startswith("nothing was left behind\nleft as it is: theirs: its branches in projects/demo at ")
        assert list(told.json["left"]) == ["theirs"]
    finally:
        shutil.rmtree(directory)


def test_reap_has_nothing_kept_of_its_own(run: Callable[..., Said]) -> None:
    """--kept is about this machine: that is said, and nothing done."""
    failed = run("reap", "--kept")
    assert (failed.code, failed.out) == (2, "")
    assert "--kept is of branches on this machine" in failed.err


@pytest.mark.parametrize("name", ["doctor", "ls", "reap"])
def test_json_keys_are_documented(cloud: Emulated, run: Callable[..., Said], name: str) -> None:
    """What --json prints has the documented keys and no others; so has each of what is listed."""
    cloud.branch(name=str(Name(owner_of(USER), "7" * 8, "b1", time.time() + 86400)))
    try:
        told = run(name, "--json").json
    finally:
        cloud.clear()
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", SECTION, re.MULTILINE)
    keys, _, each = row.partition("(each with")
    assert set(told) == {"version", *re.findall(r"`(\w+)`", keys)}
    for branch in told["branches"] if each else ():
        assert set(branch) == set(re.findall(r"`(\w+)`", each))


@pytest.mark.parametrize(
    ("route", "status", "says"),
    [("me", 401, "asking who we are: 401 UNAUTHENTICATED: "), ("get_project", 403, "reading projects/demo: 403 PERM")],
)
def test_doctor_finds_a_problem(cloud: Emulated, run: Callable[..., Said], route: str, status: int, says: str) -> None:
    """It is said, with what to do, and is the exit code; for programs too."""
    cloud.emulator.faults.add({"kind": "status", "times": None, "route": route, "status": status})
    try:
        said, told = run("doctor"), run("doctor", "--json")
    finally:
        cloud.emulator.faults.clear()
    assert (said.code, told.code) == (1, 1)
    assert f"DOES NOT WORK: {says}" in said.out
    (problem,) = told.json["problems"]
    assert problem.startswith(says)
    assert "Request id: " in problem
