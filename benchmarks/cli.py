"""What the command line takes: its help, a list of many branches, an examination."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, median, milliseconds, provider, workplace

BRANCHES = 500
ROUNDS = 11


def figures() -> Iterator[Figure]:
    """Each command in a process of its own, as a user starts it."""
    with workplace() as home:
        help_only = median([milliseconds(lambda: lakebranch(home, "--help")) for _ in range(ROUNDS)])
        python = median([milliseconds(lambda: run(home, sys.executable, "-c", "pass")) for _ in range(ROUNDS)])
        yield Figure("lakebranch --help: added to Python's own start", help_only - python, "ms", 100)
        many_branches(home)
        listed = median([milliseconds(lambda: lakebranch(home, "ls")) for _ in range(ROUNDS)])
        yield Figure(f"lakebranch ls with {BRANCHES} branches, whole process", listed, "ms", 200)
        everything = median([milliseconds(lambda: lakebranch(home, "ls", "--sizes")) for _ in range(3)])
        yield Figure(f"lakebranch ls --sizes with {BRANCHES} branches, whole process", everything, "ms")
        yield Figure("lakebranch doctor", milliseconds(lambda: lakebranch(home, "doctor")), "ms", 5000)


def many_branches(home: Path, count: int = BRANCHES) -> None:
    """A run that was left behind, with copies of the directory of one real branch."""
    left = home / "runs" / "left"
    with provider(home, "auto") as made:
        key = made.root_key
        with made.building(key):
            at = made.seal(made.build("base", None), key)
        compute = made.start("b1", at)
        (found,) = (home / "runs").glob("*/branches/*")
        for number in range(count):
            shutil.copytree(found, left / "branches" / f"{number:012}", ignore=_unreadable)
        compute.discard(disposable=True)
    (left / "alive.lock").touch()


def _unreadable(directory: str, names: list[str]) -> list[str]:
    """What overlayfs keeps closed, and the socket-like things of a server that runs."""
    return [
        name for name in names if name == "work" or (not Path(directory, name).is_dir() and not _plain(directory, name))
    ]


def _plain(directory: str, name: str) -> bool:
    return Path(directory, name).is_file()


def lakebranch(home: Path, *words: str) -> None:
    """Run one command."""
    run(home, str(Path(sys.executable).with_name("lakebranch")), *words)


def run(home: Path, *command: str) -> None:
    """Run a program that must succeed."""
    environment = {**os.environ, "LAKEBRANCH_HOME": str(home)}
    subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True)
