"""The workflow for GitHub Actions: valid, and each of its commands run as a job would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.providers.lakebase.names import Name, owner_of
from pytest_lakebranch.waiting import Deadline, poll

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from emulator_rigs import Emulated, emulated
from lakebase_rigs import environ, ours

EXAMPLE = Path(__file__).parents[2] / "conftest_examples" / "github_actions"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "database.yml"
TEXT = WORKFLOW.read_text().split("\njobs:\n")[1]
RUN = re.compile(r"^ +(?:- )?run: (?:>-\n((?: {10}.*\n)+)|(.+)\n)", re.MULTILINE)
BUILD = "lakebranch layers build"
JOBS = {
    name: [" ".join((many or one).split()) for many, one in RUN.findall(text)]
    for name, text in re.findall(r"^  (\w+):\n((?:    .*\n|\n|  #.*\n)+)", TEXT, re.MULTILINE)
}
JOB = re.compile(r"^  (\w+):\n    if: (?:>-\n((?: {6}.*\n)+)|(.*)\n)", re.MULTILINE)
CONDITIONS = {name: " ".join((many or one).split()) for name, many, one in JOB.findall(TEXT)}


class Thing(SimpleNamespace):
    """What an expression of GitHub looks into: what is not there is nothing, and so is all that is in it."""

    def __getattr__(self, name: str) -> Thing:
        return Thing()

    def __bool__(self) -> bool:
        return bool(vars(self))


def event(name: str, **more: Any) -> Thing:
    """The contexts of a run that an event of the workflow began."""
    head = Thing(repo=Thing(full_name=more.get("repository", "us/shop")))
    request = Thing(number=17, head=head) if name == "pull_request" else Thing()
    happened = Thing(action=more.get("action", ""), pull_request=request)
    ref = more.get("ref", "refs/heads/main")
    github = Thing(
        event_name=name,
        event=happened,
        repository="us/shop",
        actor=more.get("actor", "ada"),
        ref=ref,
        ref_name=ref.rpartition("/")[2],
    )
    return Thing(github=github, vars=Thing(LAKEBASE_PROJECT=more.get("project", "projects/demo")))


REQUEST = event("pull_request", action="opened", ref="refs/pull/17/merge")
CLOSED = event("pull_request", action="closed")
NIGHT = event("schedule")


def value(expression: str, of: Thing) -> Any:
    """What GitHub makes of an expression: the operators are called otherwise in Python."""
    python = expression.replace("&&", " and ").replace("||", " or ")
    return eval(python, {**vars(of), "always": lambda: True, "format": lambda text, *words: text.format(*words)})


def filled(text: str, of: Thing) -> str:
    """A text with the values of its expressions."""
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: str(value(found[1], of)), text)


def git(place: Path, *words: str) -> None:
    """Run git as somebody."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)


def started(place: Path, command: str, of: Thing = REQUEST, **variables: str) -> subprocess.Popen[str]:
    """One command as a step of a job whose checkout is ``place``."""
    program, *words = shlex.split(filled(command, of))
    if program == "pip":  # what it would install is here
        assert re.fullmatch(r"install pytest-lakebranch(\[[\w,]+\])?", " ".join(words))
        return subprocess.Popen(["true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    module = {"pytest": "pytest", "lakebranch": "pytest_lakebranch.cli"}[program]
    extra = ["-p", "no:randomly", "-p", "no:django", "-p", "no:asyncio"] if program == "pytest" else []
    places = {"LAKEBRANCH_HOME": str(place / ".lakebranch"), "GITHUB_STEP_SUMMARY": str(place / "summary.md")}
    whole, environment = [sys.executable, "-m", module, *extra, *words], {**os.environ, **places, **variables}
    pipe = subprocess.PIPE
    return subprocess.Popen(whole, cwd=place, stdout=pipe, stderr=pipe, text=True, env=environment)


def step(place: Path, command: str, of: Thing = REQUEST, **variables: str) -> str:
    """Run one command as a step of a job whose checkout is ``place``; what it said."""
    with started(place, command, of, **variables) as running:
        out, err = running.communicate()
    assert running.returncode == 0, (command, out, err)
    return out


@contextmanager
def lakebase() -> Iterator[tuple[Emulated, dict[str, str]]]:
    """An emulator, and the variables that lead there."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lbe", dir=memory) as home, emulated(Path(home)) as service:
        yield service, {**environ(service), "LAKEBRANCH_SOURCE": service.project}


def test_the_workflow_is_valid() -> None:
    """It is one by the schema of GitHub's workflows, and every command is ours."""
    checked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [command for job in JOBS.values() for command in job]
    assert list(JOBS) == list(CONDITIONS) == ["test", "cloud", "sweep"]
    assert len(commands) == WORKFLOW.read_text().count(" run: ")
    assert {command.split()[0] for command in commands} == {"pip", "lakebranch", "pytest"}


@pytest.mark.parametrize(
    ("of", "jobs"),
    [
        (event("push"), ["test", "cloud"]),
        (REQUEST, ["test", "cloud"]),
        (event("pull_request", action="opened", repository="them/shop"), ["test"]),
        (event("pull_request", action="opened", actor="dependabot[bot]"), ["test"]),
        (event("pull_request", action="closed", repository="them/shop"), []),
        (event("pull_request", action="closed", actor="dependabot[bot]"), []),
        (CLOSED, ["sweep"]),
        (NIGHT, ["sweep"]),
        (event("pull_request", action="opened", project=""), ["test"]),
        (event("schedule", project=""), []),
    ],
    ids=[
        "push",
        "request",
        "fork",
        "dependabot",
        "closed fork",
        "closed dependabot",
        "closed",
        "night",
        "no",
        "no night",
    ],
)
def test_who_does_what(of: Thing, jobs: list[str]) -> None:
    """Whoever has no secrets is not sent to the cloud, and only the sweep follows when a pull request is closed."""
    assert [name for name, condition in CONDITIONS.items() if value(condition, of)] == jobs


def setting(name: str, of: Thing) -> str:
    """A line of the workflow, filled."""
    found = re.search(rf"^ +{name}: (.*)$", WORKFLOW.read_text(), re.MULTILINE)
    assert found
    return filled(found[1], of)


def test_nothing_cancels_the_sweep() -> None:
    """What a merge begins is not in the group of the branch that it goes to, and cancels nothing."""
    assert setting("group", CLOSED) == setting("group", REQUEST) == "database-pull_request-17"
    assert (setting("cancel-in-progress", CLOSED), setting("cancel-in-progress", REQUEST)) == ("False", "True")
    assert setting("group", event("push")) == "database-push-refs/heads/main"
    assert setting("LAKEBRANCH_OWNER", event("push")) == "main"


def test_commands_of_a_job(tmp_path: Path, shared_home: Path) -> None:
    """What stands around the tests does what it says: the base is built, the cache pruned."""
    place = tmp_path / "checkout"
    shutil.copytree(EXAMPLE, place)
    commands = [command for command in JOBS["test"] if command.startswith("lakebranch layers ")]
    assert commands == [BUILD, "lakebranch layers prune --older-than 14d"]
    said = [step(place, command, LAKEBRANCH_HOME=str(shared_home)) for command in commands]
    assert said[0].startswith(("built: ", "in the cache: "))


def test_the_sweep(tmp_path: Path) -> None:
    """It deletes what was made on behalf of the pull request, and what is past its time; nothing else."""
    soon, past = time.time() + 86400, time.time() - 86400
    mine, other, another = owner_of(USER, "pr-17"), owner_of(USER, "pr-18"), owner_of("grace@example.com", "pr-17")
    with lakebase() as (service, variables):
        names = [str(Name(owner, "0" * 8, "b1", soon)) for owner in (mine, other, another)]
        over = str(Name(other, "1" * 8, "b1", past))
        for name in (*names, over, "pr17"):
            service.branch(name=name)
        said = "".join(step(tmp_path, command, CLOSED, **variables) for command in JOBS["sweep"])
        assert set(re.findall(r"deleted projects/demo/branches/(\S+)", said)) == {names[0], over}
        assert poll(lambda: ours(service) == sorted(names[1:]) or None, deadline=Deadline(20)), ours(service)


@pytest.mark.slow
@pytest.mark.soak
def test_a_pull_request(tmp_path: Path) -> None:
    """A push fills the cache; a pull request begins with it, and posts what it changes and how it was checked."""
    main, request = tmp_path / "main", tmp_path / "request"
    shutil.copytree(EXAMPLE, main)
    git(main, "init")
    git(main, "add", ".")
    git(main, "commit", "-m", "one")
    git(main, "update-ref", "refs/remotes/origin/main", "HEAD")
    assert step(main, BUILD).startswith("built: ")
    subprocess.run(["cp", "-a", str(main), str(request)], check=True)  # the checkout, and the cache that is restored
    assert step(request, BUILD).startswith("in the cache: ")
    (request / "migrations" / "0002_price.sql").write_text("ALTER TABLE parcel ADD IF NOT EXISTS price numeric;")
    git(request, "add", ".")
    git(request, "commit", "-m", "two")
    said = "".join(step(request, command) for command in JOBS["test"])
    assert "base from the cache" in said
    posted, summary = ((request / name).read_text() for name in ("database.md", "summary.md"))
    assert [line for line in summary.splitlines() if line] == [line for line in posted.splitlines() if line]
    assert "From `git:origin/main` to `base`: 1 added." in posted
    assert "- column `public.parcel.price`: `numeric`" in posted
    assert "| `0002 price` | ✅ | ✅ | ⏭ | ✅ |" in posted
    assert "0001" not in posted
    assert "0002_price.sql" in (request / "junit.xml").read_text()


@pytest.mark.slow
@pytest.mark.soak
def test_the_cloud(tmp_path: Path) -> None:
    """With a Lakebase project the same tests run there, and nothing is left, neither then nor after the sweep."""
    place = tmp_path / "cloud"
    shutil.copytree(EXAMPLE, place)
    with lakebase() as (service, variables):
        said = "".join(step(place, command, **variables) for command in (*JOBS["cloud"], *JOBS["sweep"]))
        assert ours(service) == []
    assert "1 passed" in said
    assert "nothing was left behind" in said


@pytest.mark.slow
@pytest.mark.soak
def test_a_runner_is_lost(tmp_path: Path) -> None:
    """Run, host and state directory of a pull request's job are gone at once: closing it deletes what they left."""
    place, elsewhere = tmp_path / "cloud", tmp_path / "another runner"
    shutil.copytree(EXAMPLE, place)
    elsewhere.mkdir()
    (place / "tests" / "test_wait.py").write_text(WAITS)
    with lakebase() as (service, variables):
        others = str(Name(owner_of(USER, "pr-18"), "0" * 8, "b1", time.time() + 86400))
        service.branch(name=others)
        owned = {**variables, "LAKEBRANCH_OWNER": setting("LAKEBRANCH_OWNER", REQUEST)}
        running = started(place, f"{JOBS['cloud'][-1]} -k wait", **owned)
        assert poll(lambda: (place / "started.txt").exists() or None, deadline=Deadline(60))
        run = next((place / ".lakebranch" / "runs").iterdir())
        hosts = [process for process in psutil.process_iter() if str(run) in " ".join(words_of(process))]
        pytest_runs = psutil.Process(running.pid)
        for process in (*hosts, *pytest_runs.children(recursive=True), pytest_runs):
            process.kill()
        psutil.wait_procs(hosts, 10)
        running.communicate()
        shutil.rmtree(place)
        assert len(ours(service)) > 1
        said = "".join(step(elsewhere, command, CLOSED, **variables) for command in JOBS["sweep"])
        assert "deleted projects/demo/branches/lakebranch-pr17" in said
        assert poll(lambda: ours(service) == [others] or None, deadline=Deadline(20)), ours(service)
    step(elsewhere, "lakebranch reap")  # the place of the application's URL is on this machine all the same


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty where it is gone."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


WAITS = """
import pathlib, time

def test_wait(lakebranch):
    pathlib.Path("started.txt").touch()
    time.sleep(60)
"""
