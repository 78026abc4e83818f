"""The command ``lakebranch``. It never imports pytest, and imports what a command needs when the command is given."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from pytest_lakebranch import __version__
from pytest_lakebranch.cli.trouble import message
from pytest_lakebranch.errors import ConfigError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
COMMANDS = ("doctor", "ls", "open", "diff", "schema", "reap", "layers", "config", "serve", "completion")
EPILOG = """exit codes:
  0    done
  1    it failed, reap could not delete all, doctor found something that does not work, or diff --exit-code found a
       difference
  2    wrong usage: an unknown argument, or a setting that is written wrongly
  130  interrupted
`open` ends with the exit code of psql, and `serve -- COMMAND` with that of COMMAND: 128 and the signal's number where
a signal ended it.

The state directory is --home, else LAKEBRANCH_HOME, else lakebranch_home in the settings of pytest that hold in the
present directory, else the user cache directory."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code. What goes wrong is one message on standard error, never a traceback."""
    parsed = _parsed(sys.argv[1:] if arguments is None else arguments)
    try:
        code: int = parsed.act(parsed)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        said = message(error)
        if said is None:
            raise
        sys.stderr.write(f"lakebranch: {said}\n")
        return USAGE if isinstance(error, ConfigError) else FAILED
    return code


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What was said; after ``--`` all is the program's (argparse takes that for ours once an option stands before)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    made, program = parser(_named(arguments)), list(arguments[end + 1 :])
    parsed = made.parse_args(arguments[:end])
    if program and not hasattr(parsed, "program"):
        made.error(f"{parsed.command} takes nothing after --")
    if program:
        parsed.program = program
    return parsed


def _named(arguments: Sequence[str]) -> Sequence[str]:
    """The command that is named, if it is: then nobody asks for the grammar of others."""
    return arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS


def parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """The grammar of the command line, or of some of its commands."""
    made = argparse.ArgumentParser(
        prog="lakebranch",
        description="Branches of PostgreSQL databases for tests: look at them, open them, clean up.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"pytest-lakebranch {__version__}")
    group = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in commands:
        import_module(f"pytest_lakebranch.cli.{command}").declare(group)
    return made
