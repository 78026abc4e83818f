"""The workflow for GitHub Actions: valid, and each of its commands run as a job would."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from emulator_rigs import emulated
from lakebase_rigs import environ, ours

EXAMPLE = Path(__file__).parents[2] / "conftest_examples" / "github_actions"
WORKFLOW = EXAMPLE / ".github" / "workflows" / "database.yml"
RUN = re.compile(r"^ +(?:- )?run: (?:>-\n((?: {10}.*\n)+)|(.+)\n)", re.MULTILINE)
BUILD = "lakebranch layers build"
JOBS = {
    name: [" ".join((many or one).split()) for many, one in RUN.findall(text)]
    for name, text in re.findall(
        r"^  (\w+):\n((?:    .*\n|\n|  #.*\n)+)", WORKFLOW.read_text().split("\njobs:\n")[1], re.MULTILINE
    )
}


def git(place: Path, *words: str) -> None:
    """Run git as somebody."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True)


def step(place: Path, command: str, **variables: str) -> str:
    """Run one command as a step of a job whose checkout is ``place``; what it said."""
    program, *words = shlex.split(
        command.replace("${{ vars.LAKEBASE_PROJECT }}", variables.get("LAKEBRANCH_SOURCE", ""))
    )
    if program == "pip":  # what it would install is here
        assert re.fullmatch(r"install pytest-lakebranch\[[\w,]+\]", " ".join(words))
        return ""
    module = {"pytest": "pytest", "lakebranch": "pytest_lakebranch.cli"}[program]
    extra = ["-p", "no:randomly", "-p", "no:django", "-p", "no:asyncio"] if program == "pytest" else []
    places = {"LAKEBRANCH_HOME": str(place / ".lakebranch"), "GITHUB_STEP_SUMMARY": str(place / "summary.md")}
    whole, place_of_step = [sys.executable, "-m", module, *extra, *words], {**os.environ, **places, **variables}
    done = subprocess.run(whole, cwd=place, capture_output=True, text=True, env=place_of_step, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_the_workflow_is_valid() -> None:
    """It is one by the schema of GitHub's workflows, and every command is ours."""
    checked = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = [command for job in JOBS.values() for command in job]
    assert list(JOBS) == ["test", "cloud", "sweep"]
    assert len(commands) == WORKFLOW.read_text().count(" run: ")
    assert {command.split()[0] for command in commands} == {"pip", "lakebranch", "pytest"}


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
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="lbe", dir=memory) as home, emulated(Path(home)) as service:
        variables = {**environ(service), "LAKEBRANCH_SOURCE": service.project}
        said = "".join(step(place, command, **variables) for command in (*JOBS["cloud"], *JOBS["sweep"]))
        assert ours(service) == []
    assert "1 passed" in said
    assert "nothing was left behind" in said
