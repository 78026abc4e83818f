"""What the README and the documents beside it show, run as shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lakebranch import __all__ as public, config, hookspecs, markers
from pytest_lakebranch.markers import PER_TEST, WIDER
from tests.plugin.conftest import PLAIN

TESTED = {
    "pytest": ([], ["-n", "2"], ["--lakebranch-schema-diff=diff.md"], ["--lakebranch-check-migrations"]),
    "lakebranch": (["diff", "source", "base"],),
}
"""Commands that other tests run."""
ROOT = Path(__file__).parents[2]
PAGES = {path: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with every file that is shown."""
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in ("parentage", "hooks"):  # without settings: pytest would take the outer example's
        (tmp_path / folder / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "passed"),
    [(".", 3), ("app", 2), ("parentage", 4), ("diff", 1), ("migrated", 1), ("migrations", 1), ("hooks", 1)],
)
@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_files_as_shown(project: Path, folder: str, passed: int, workers: str) -> None:
    """Each example passes as a project of its own, with and without workers."""
    files = [path.name for path in (project / folder).glob("test_*.py")]
    command = [sys.executable, "-m", "pytest", "-n", workers, "--rootdir=.", *PLAIN, *files]
    done = subprocess.run(command, cwd=project / folder, capture_output=True, text=True, check=False)
    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("command", [each for each in COMMANDS if each.startswith("lakebranch serve")])
@pytest.mark.soak
def test_the_emulator_as_shown(project: Path, command: str) -> None:
    """A pipeline's own test passes on the emulator, also where the service is slow and refuses."""
    (project / "ci" / "pytest.ini").write_text("[pytest]\n")
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "PYTEST_ADDOPTS": "-p no:django -p no:asyncio -p no:randomly"}
    done = subprocess.run(
        shlex.split(command), cwd=project / "ci", env=environment, capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_every_code_block_is_accounted_for() -> None:
    """A block of code is a file of an example or a command; there is no third kind that nobody runs."""
    blocks = re.findall(r"^```(\w+)$", TEXT, re.MULTILINE)
    assert len(FILES) == len([kind for kind in blocks if kind != "console"])


def test_commands_are_those_we_test() -> None:
    """The commands are the targets of the Makefile, the wheel's installation and pytest."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in COMMANDS:
        program, *words = command.split()
        known = {
            "make": set(words) <= targets,
            "pip": words[:1] == ["install"],
            "pytest": words in TESTED["pytest"],
            "lakebranch": words[:1] == ["serve"] or words in TESTED["lakebranch"],
        }
        assert known[program], command


def test_every_setting_fixture_hook_and_marker_is_documented() -> None:
    """What can be asked for stands in the documents."""
    rows = set(re.findall(r"^\| `(\w+)` \|", TEXT.split("<!-- settings -->")[1].split("\n\n")[0], re.MULTILINE))
    assert rows == {row.name for row in config.TABLE}
    hooks = [name for name in vars(hookspecs) if name.startswith("pytest_lakebranch_")]
    for name in (*PER_TEST, *WIDER, *hooks, *(name for name in public if name.islower() and name[0] != "_")):
        assert f"`{name}" in TEXT, name
    for isolation in markers.ISOLATIONS:
        assert f'"{isolation}"' in TEXT


def anchors(text: str) -> set[str]:
    """What a link can lead to in a document: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere() -> None:
    """Every relative link exists, with the heading that it names."""
    for page, text in PAGES.items():
        for target, _, heading in re.findall(r"\]\((?!http)([^)#]*)(#?)([^)]*)\)", text):
            found = (page.parent / target).resolve() if target else page
            assert found.exists(), (page, target)
            assert not heading or heading in anchors(PAGES[found]), (page, target, heading)


def test_every_document_can_be_reached() -> None:
    """The README leads to each."""
    linked = {(ROOT / target).resolve() for target in re.findall(r"\]\((docs/[^)#]+)", PAGES[ROOT / "README.md"])}
    assert linked == set(PAGES) - {ROOT / "README.md"}
