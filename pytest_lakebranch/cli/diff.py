"""``lakebranch diff``: how two schemas differ."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from pytest_lakebranch.cli import arguments, output

DIFFERENT = 1


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    from pytest_lakebranch.cli.targets import TARGET_HELP

    made = arguments.command(
        commands, "diff", "print how the schema of one branch, base or database differs from another"
    )
    made.add_argument("old", metavar="TARGET", help=TARGET_HELP)
    made.add_argument("new", metavar="TARGET", nargs="?", default="base", help="the same; base if it is left out")
    made.add_argument(
        "--output",
        metavar="FILE",
        action="append",
        type=_file,
        default=[],
        help="also write it to a file: .md, .txt or .json; may be given more than once",
    )
    made.add_argument("--exit-code", action="store_true", help="end with 1 when something differs")
    made.set_defaults(act=run)


def _file(text: str) -> Path:
    from argparse import ArgumentTypeError

    from pytest_lakebranch.config import DIFF_SUFFIXES

    if Path(text).suffix.lower() not in DIFF_SUFFIXES:
        raise ArgumentTypeError(f"{text!r} ends in none of the known suffixes {', '.join(DIFF_SUFFIXES)}")
    return Path(text)


def run(parsed: Namespace) -> int:
    """Print the diff."""
    from pytest_lakebranch.cli.comparison import is_foreign, schema_of
    from pytest_lakebranch.cli.project import project, state
    from pytest_lakebranch.schema.diff import compare
    from pytest_lakebranch.schema.files import told

    here, home = project(parsed), state(parsed, new=True)
    old, new = (schema_of(wanted, project=here, state=home) for wanted in (parsed.old, parsed.new))
    other_roles = any(map(is_foreign, (parsed.old, parsed.new)))
    diff = compare(old, new, old=parsed.old, new=parsed.new, other_roles=other_roles)
    for path in parsed.output:
        path.write_text(told(diff, path.suffix), encoding="utf-8", errors="backslashreplace")
    facts = diff.to_json()
    facts.pop("version")
    output.show(parsed, facts, [diff.text().rstrip("\n")])
    sys.stdout.flush()
    return DIFFERENT if diff and parsed.exit_code else 0
