"""The command ``lakebranch`` as a whole: its help, its exit codes, its way with bad input, its completion."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pytest_lakebranch.cli import COMMANDS, parser
from pytest_lakebranch.cli.arguments import ended_by_signals
from tests.plugin.cli_rigs import Command
from tests.plugin.conftest import Project

PROGRAM = str(Path(sys.executable).with_name("lakebranch"))
WITHOUT = ("pytest", "_pytest", "psycopg", "httpx", "filelock", "platformdirs", "inspect")


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command, in this process."""
    return Command(capfd)


def test_servers_heed_the_signal_of_our_death(request: pytest.FixtureRequest) -> None:
    """Also those of a command that a shell started in the background, which ignores it, and does so again after."""
    request.addfinalizer(partial(signal.signal, signal.SIGQUIT, signal.signal(signal.SIGQUIT, signal.SIG_IGN)))
    with ended_by_signals():
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN


def test_help_imports_little() -> None:
    """Help comes without pytest and without anything that only some commands need."""
    script = f"""
import sys
from pytest_lakebranch.cli import main
try:
    main(["--help"])
finally:
    print([name for name in {WITHOUT!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize("words", ["ls", "layers ls", "config"])
def test_listing_imports_no_client(words: str, project: Project) -> None:
    """What lists files and settings comes without a client of PostgreSQL or of HTTP."""
    script = (
        "import sys; from pytest_lakebranch.cli import main; main(sys.argv[1:]); "
        "assert not {'psycopg', 'httpx'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, *words.split()]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", ["doctor", "ls", "reap", "layers ls", "config", "completion bash"])
def test_pytest_is_never_imported(words: str, project: Project) -> None:
    """No command that ends by itself imports pytest."""
    script = (
        "import sys; from pytest_lakebranch.cli import main; main(sys.argv[1:]); assert 'pytest' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words.split()], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_console_script() -> None:
    """The installed program knows every command and documents its exit codes."""
    said = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in said for name in COMMANDS)
    assert re.findall(r"^  (\d+) ", said, re.MULTILINE) == ["0", "1", "2", "130"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nonsense",
        "ls --nonsense",
        "ls more",
        "open",
        "layers",
        "layers prune",
        "layers prune --older-than yesterday",
        "layers prune --to much",
        "completion tcsh",
        "--js",
    ],
)
def test_wrong_usage(command: Command, words: str) -> None:
    """Nonsense on the command line is exit code 2 and a message, with nothing on standard output."""
    said = command(*words.split())
    assert (said.code, said.out) == (2, "")
    assert "lakebranch" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("words", ["ls", "doctor", "reap", "layers ls", "config"])
def test_an_empty_home_is_wrong_usage(command: Command, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A state directory that is set but empty is refused by every command."""
    monkeypatch.setenv("LAKEBRANCH_HOME", "")
    said = command(*words.split())
    assert said.code == 2
    assert "LAKEBRANCH_HOME is set but empty" in said.err


@pytest.mark.parametrize("words", ["ls", "reap", "layers ls", "open b1", "layers rebuild --all"])
def test_the_state_directory_of_a_newer_version(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str
) -> None:
    """A state directory with a layout that this version does not know is left alone, with one message."""
    (tmp_path / "FORMAT").write_text("99\n")
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path))
    said = command(*words.split())
    assert (said.code, said.out) == (1, "")
    assert said.err.count("\n") == 1
    assert "'99'" in said.err
    assert "Upgrade pytest-lakebranch" in said.err


def test_a_home_that_is_a_file(command: Command, tmp_path: Path) -> None:
    """A state directory that cannot be one is one message."""
    (tmp_path / "file").write_text("")
    said = command("ls", "--home", str(tmp_path / "file"))
    assert said.code == 1
    assert str(tmp_path / "file") in said.err


def test_a_reader_that_has_enough(project: Project) -> None:
    """A pipe that is closed early, as by head, ends the command without a traceback."""
    done = subprocess.run(
        f"{PROGRAM} config --json | true", shell=True, cwd=project.path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_valid(command: Command, tmp_path: Path, shell: str) -> None:
    """Each shell accepts its script."""
    script = tmp_path / "script"
    script.write_text(command("completion", shell).out)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", set(COMMANDS)),
        ("la", {"layers"}),
        ("layers ", {"build", "ls", "prune", "rebuild"}),
        ("layers prune --o", {"--older-than"}),
        ("reap --home x --d", {"--dry-run"}),
        ("completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_completion_in_bash(command: Command, line: str, offered: set[str]) -> None:
    """bash offers the words that may follow."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    words = ["lakebranch", *line.split(" ")]
    setting = f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}"
    script = f'{command("completion", "bash").out}\n{setting}; _lakebranch; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    options = {word for word in done.stdout.split() if word.startswith("-") and not line.endswith("-")}
    assert offered <= set(done.stdout.split()) <= offered | options


def test_every_command_has_help(command: Command) -> None:
    """Each command says what it does."""
    for name in COMMANDS:
        said = command(name, "--help")
        assert said.code == 0
        assert said.out.startswith(f"usage: lakebranch {name}")
    assert parser().prog == "lakebranch"
