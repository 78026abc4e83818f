"""The table of commands of the documents, held to the commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.cli import parser
from pytest_lakebranch.state import State
from tests.plugin.cli_rigs import Command

SECTION = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()
ROWS = re.findall(r"^\| `lakebranch ([^`]+)` \| (.*) \|(.*)\|$", SECTION, re.MULTILINE)


def commands(made: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """All commands, inner ones with both words."""
    groups = [action for action in made._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path.strip(), made
    for group in groups:
        for name, inner in group.choices.items():
            yield from commands(inner, f"{path} {name}")


def test_every_command_and_option_is_in_the_table() -> None:
    """Each command has a row, and each option of its own is named in the section."""
    documented = {" ".join(word for word in name.split() if word.islower()) for name, _, _ in ROWS}
    assert documented == {name for name, _ in commands(parser())}
    for _, made in commands(parser()):
        for option in made._option_string_actions:
            assert option in (*("-h", "--help"), "--json") or f"`{option}" in SECTION, option


@pytest.mark.parametrize(
    ("name", "keys"), [(name, keys) for name, _, keys in ROWS if keys.strip() and "TARGET" not in name]
)
def test_json_keys_are_those_of_the_table(
    name: str, keys: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What --json prints has the documented keys and no others."""
    monkeypatch.chdir(tmp_path)
    State(tmp_path / "home").ensure()
    more = {"layers prune": ["--all"], "layers rebuild": ["--all"], "serve": ["--", "true"]}.get(name, [])
    said = Command(capfd)(*name.split(), "--json", "--home", str(tmp_path / "home"), *more).json
    documented = re.findall(r"`(\w+)`", re.sub(r"\(each.*?\)", "", keys))
    assert set(said) == {"version", *documented}


def test_exit_codes_are_those_of_the_help() -> None:
    """The document names the exit codes that the help names."""
    for code in re.findall(r"^  (\d+) ", parser().format_help(), re.MULTILINE):
        assert re.search(rf"\b{code} ", SECTION.split("Exit codes:")[1]), code
