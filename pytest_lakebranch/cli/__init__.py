"""The command ``lakebranch``. It never imports pytest."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pytest_lakebranch import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = argparse.ArgumentParser(prog="lakebranch", description="Branches of PostgreSQL databases for tests.")
    parser.add_argument("--version", action="version", version=f"pytest-lakebranch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    reap = commands.add_parser("reap", help="delete what dead runs left behind")
    reap.add_argument("--home", help="state directory (default: LAKEBRANCH_HOME, else the user cache directory)")
    reap.set_defaults(act=_reap)
    parsed = parser.parse_args(arguments)
    code: int = parsed.act(parsed)
    return code


def _reap(parsed: argparse.Namespace) -> int:
    import os

    from pytest_lakebranch.branches.reaper import reap
    from pytest_lakebranch.state import State

    dead = reap(State.at(parsed.home or os.environ.get("LAKEBRANCH_HOME", "")).ensure())
    for run in dead:
        print(f"deleted run {run}")  # noqa: T201  (a command's output)
    return 0
