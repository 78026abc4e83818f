"""What several commands share: arguments, the types of their values, and how signals end them."""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
from collections.abc import Iterator
from typing import Any

Commands = Any
"""What ``add_subparsers`` returns: argparse has no public name for it."""
SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def command(commands: Commands, name: str, help: str, *, home: bool = True) -> argparse.ArgumentParser:  # noqa: A002
    """Declare one command with the arguments that all have."""
    made: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False
    )
    if home:
        made.add_argument("--home", metavar="DIR", help="state directory")
    made.add_argument("--json", action="store_true", help="print one JSON object; its keys are in the README")
    return made


def size(text: str) -> int:
    """Bytes from a size such as ``500M`` or ``2G``."""
    found = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 2G")
    return int(found[1]) * SIZES[found[2]]


def span(text: str) -> int:
    """Seconds from a span of time such as ``12h`` or ``7d``."""
    found = re.fullmatch(r"(\d+)([smhdw])", text.strip().lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a span of time such as 30m, 12h or 7d")
    return int(found[1]) * SPANS[found[2]]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have a request to end take the way of Ctrl-C, so that everything is removed."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def interruptible() -> None:
    """For a child process whose parent ignores SIGINT: Ctrl-C ends it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
