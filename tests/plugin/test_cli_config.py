"""``lakebranch config``: the same settings as pytest sees, found without pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lakebranch.config import TABLE
from tests.plugin.cli_rigs import Command
from tests.plugin.conftest import Project

PLACES = {
    "pytest.ini": "[pytest]\nlakebranch_user = tester\nlakebranch_settings =\n    timezone=UTC\n    work_mem=1MB\n",
    ".pytest.ini": "[pytest]\nlakebranch_user = tester  # a comment is no part of it\n",
    "tox.ini": "[tox]\nenvlist = a\n[pytest]\nlakebranch_autouse = yes\nlakebranch_env = DATABASE_URL\n",
    "setup.cfg": "[tool:pytest]\nlakebranch_settings = timezone=UTC\naddopts = -q --lakebranch-database=other\n",
    "pyproject.toml": '[tool.pytest.ini_options]\nlakebranch_env = ["A", "B={host}"]\nlakebranch_autouse = true\n',
    "native.toml": '[tool.pytest]\nlakebranch_autouse = true\naddopts = ["--lakebranch-user=x"]\n',
    "none": "",
}
PROBE = """
import json
from pytest_lakebranch.config import TABLE
from pytest_lakebranch.stash import SETTINGS

def pytest_configure(config):
    found = config.stash[SETTINGS]
    seen = {row.name: getattr(found, row.name) for row in TABLE if row.name != "home"}
    print("SEEN", json.dumps({"root": found.root, "values": seen, "sources": sorted(found.sources)}))
"""


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


def seen_by_pytest(project: Project) -> dict[str, object]:
    """What the settings are in a run of pytest in the present directory."""
    plugins = ("-p", "probe", "-p", "lakebranch", "-p", "no:cacheprovider")
    result = project.pytester.runpytest_subprocess(*plugins, "--collect-only", "-q")
    line = next(line for line in result.outlines if line.startswith("SEEN"))
    found: dict[str, object] = json.loads(line.removeprefix("SEEN "))
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("below", [False, True], ids=["at the root", "below"])
def test_as_pytest_sees_it(
    project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, place: str, below: bool
) -> None:
    """Values, root directory and what is set are those of a real run, wherever the settings stand."""
    if place != "none":
        (project.path / place.replace("native", "pyproject")).write_text(PLACES[place])
    project.write(probe=PROBE)
    monkeypatch.setenv("PYTHONPATH", str(project.path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("LAKEBRANCH_POSTGRES", "embedded")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--lakebranch-locale=C -v")
    directory = project.path / "sub" if below and place != "none" else project.path
    directory.mkdir(exist_ok=True)
    monkeypatch.chdir(directory)
    said = command("config", "--json").json
    settings = {fact["name"]: fact for fact in said["settings"]}
    assert list(settings) == [row.name for row in TABLE]
    ours = {
        "root": said["root"],
        "values": {name: fact["value"] for name, fact in settings.items() if name != "home"},
        "sources": sorted(name for name, fact in settings.items() if fact["source"] != "default"),
    }
    assert ours == seen_by_pytest(project)


def test_where_values_come_from(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value names its place: file, variable, option, or nothing for a default."""
    project.ini(lakebranch_user="tester", addopts="--lakebranch-database=other")
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("LAKEBRANCH_STORAGE", "copy")
    said = command("config", "--json", "--home", "elsewhere").json
    found = {fact["name"]: (fact["value"], fact["source"], fact["where"]) for fact in said["settings"]}
    file = project.path / "pytest.ini"
    assert said["file"] == str(file)
    assert found["user"] == ("tester", "ini", f"lakebranch_user in {file}")
    assert found["database"] == ("other", "option", "--lakebranch-database in addopts")
    assert found["storage"] == ("copy", "environment", "LAKEBRANCH_STORAGE")
    assert found["home"] == (str(project.path / "elsewhere"), "option", "--lakebranch-home")
    assert found["locale"] == ("C.UTF-8", "default", None)


def test_for_a_person(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json there is a table of settings, values and places."""
    project.ini(lakebranch_user="tester")
    monkeypatch.chdir(project.path)
    said = command("config")
    assert f"user tester lakebranch_user in {project.path / 'pytest.ini'}" in " ".join(said.out.split())
    assert f"ini file: {project.path / 'pytest.ini'}" in said.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pytest]\nlakebranch_usr = x\n", "there is no setting lakebranch_usr. Did you mean lakebranch_user?"),
        ("[pytest]\nlakebranch_storage = fast\n", "lakebranch_storage in ini: 'fast' is not one of"),
        ("[pytest]\nlakebranch_user =\n", "lakebranch_user in ini is set but empty"),
        ("[pytest\n", "pytest.ini"),
        ("[pytest]\naddopts = --lakebranch-user\n", "addopts: argument --lakebranch-user: expected one argument"),
        ("[pytest]\naddopts = -m 'not slow\n", 'addopts: "-m \'not slow" cannot be split into words: No closing'),
    ],
)
def test_mistakes(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    """A mistake in the settings is exit code 2 and the message that pytest would give."""
    Path(project.path, "pytest.ini").write_text(text)
    monkeypatch.chdir(project.path)
    said = command("config")
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_a_damaged_toml_file(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no TOML is one message with its name."""
    Path(project.path, "pyproject.toml").write_text("[tool.pytest\n")
    monkeypatch.chdir(project.path)
    said = command("config")
    assert said.code == 2
    assert str(project.path / "pyproject.toml") in said.err


@pytest.mark.parametrize("text", ["[tool]\npytest = 5\n", "[tool.pytest]\naddopts = 5\n"])
def test_toml_of_another_shape(project: Project, command: Command, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A table that is none, and options that are no list, are wrong usage."""
    Path(project.path, "pyproject.toml").write_text(text)
    monkeypatch.chdir(project.path)
    assert command("config").code == 2


def test_an_open_quote_in_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTEST_ADDOPTS that cannot be split is wrong usage, for every command that looks at it."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'a or b")
    for words in ("config", "ls"):
        said = command(words)
        assert (said.code, said.out) == (2, "")
        assert 'PYTEST_ADDOPTS: "-k \'a or b" cannot be split into words: No closing quotation' in said.err


def test_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    """It is printed all the same, with a backslash for what cannot be encoded."""
    directory = tmp_path / os.fsdecode(b"caf\xe9")
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest_lakebranch.cli", "config"]
    environ = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf\\udce9/pytest.ini" in done.stdout
