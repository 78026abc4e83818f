"""``lakebranch reap``: delete what dead runs left behind."""

from __future__ import annotations

from argparse import Namespace

from pytest_lakebranch.cli import arguments, output


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "reap", "delete what dead runs left behind; runs that live are not touched")
    made.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Delete, or say what would be deleted."""
    from pytest_lakebranch.branches.reaper import dead_runs, reap
    from pytest_lakebranch.cli.project import state

    found = state(parsed)
    runs = dead_runs(found) if parsed.dry_run else reap(found)
    word = "would delete" if parsed.dry_run else "deleted"
    lines = [f"{word} run {run}" for run in runs] or ["nothing was left behind"]
    output.show(parsed, {"dry_run": parsed.dry_run, "runs": runs}, lines)
    return 0
