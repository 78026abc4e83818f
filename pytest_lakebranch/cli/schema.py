"""``lakebranch schema``: what a database consists of."""

from __future__ import annotations

from argparse import Namespace

from pytest_lakebranch.cli import arguments, output


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "schema", "print the schema of a branch, a base or another database")
    made.add_argument("target", metavar="TARGET", help="as for `lakebranch diff`")
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Print it."""
    from pytest_lakebranch.cli.comparison import schema_of
    from pytest_lakebranch.cli.project import project, state
    from pytest_lakebranch.schema.words import described

    found = schema_of(parsed.target, project=project(parsed), state=state(parsed, new=True))
    lines = (f"{thing.title}  {described(thing)}".rstrip() for thing in found)
    output.show(parsed, {"of": parsed.target, "things": found.to_json()}, lines)
    return 0
