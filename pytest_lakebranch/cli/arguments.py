"""What several commands share: arguments, the types of their values, and how signals end them."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from pytest_lakebranch import amounts

Commands = Any
"""What ``add_subparsers`` returns: argparse has no public name for it."""


def command(commands: Commands, name: str, help: str, *, home: bool = True) -> argparse.ArgumentParser:  # noqa: A002
    """Declare one command with the arguments that all have."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False
    )
    if home:
        made.add_argument("--home", metavar="DIR", help="state directory")
    made.add_argument("--json", action="store_true", help="print one JSON object; its keys are in docs/command_line.md")
    return made


def provider(made: argparse.ArgumentParser) -> None:
    """Declare ``--provider`` for a command that also knows a cloud."""
    made.add_argument(
        "--provider",
        choices=("local", "lakebase"),
        default="local",
        help="lakebase: in the project of lakebranch_source, with the login of the environment",
    )


def owner(text: str) -> str:
    """Whose branches are meant; a variable that is empty by mistake means nobody's."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text.strip()


def size(text: str) -> int:
    """Bytes from a size such as ``500M`` or ``2G``."""
    return _said(amounts.size, text)


def span(text: str) -> int:
    """Seconds from a span of time such as ``12h`` or ``7d``."""
    return _said(amounts.span, text)


def _said(parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have a request to end take the way of Ctrl-C, so that everything is removed; and servers started here heed
    SIGQUIT, which tells them of our death, also where whoever started us ignores it.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGQUIT] = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
