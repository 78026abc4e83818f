"""``lakebranch reap``: delete what dead runs left behind, and kept branches whose time is over."""

from __future__ import annotations

from argparse import Namespace

from pytest_lakebranch.cli import arguments, output
from pytest_lakebranch.errors import ConfigError


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "reap", "delete what dead runs left, and kept branches whose time is over")
    made.add_argument("--kept", action="store_true", help="delete all kept branches, also before their time")
    made.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    made.add_argument(
        "--owner",
        type=arguments.owner,
        metavar="NAME",
        help="in the cloud: delete all that was made on behalf of NAME (lakebranch_owner), also by runs elsewhere",
    )
    arguments.provider(made)
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Delete, or say what would be deleted."""
    if parsed.provider != "local":
        if parsed.kept:
            raise ConfigError(
                "--kept is of branches on this machine: in the cloud, kept branches go when their time is over, "
                "and with --owner NAME at once."
            )
        from pytest_lakebranch.cli import cloud

        return cloud.reap(parsed)
    if parsed.owner is not None:
        raise ConfigError("--owner is of branches in the cloud: give --provider lakebase as well.")
    from pytest_lakebranch.branches.reaper import due, reap
    from pytest_lakebranch.cli.project import state

    gone = (due if parsed.dry_run else reap)(state(parsed), all_kept=parsed.kept)
    word = "would delete" if parsed.dry_run else "deleted"
    lines = [f"{word} run {run}" for run in gone.runs] + [f"{word} kept branch {name}" for name in gone.kept]
    lines += [f"left as it is: {name}: {why}" for name, why in gone.left.items()]
    output.show(parsed, {"dry_run": parsed.dry_run, **gone._asdict()}, lines or ["nothing was left behind"])
    return 1 if gone.left and not parsed.dry_run else 0
