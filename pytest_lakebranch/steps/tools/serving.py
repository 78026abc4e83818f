"""The side of a migration tool's own process: answers requests, one JSON object a line, until the other end closes.

A request is ``{"call": NAME, "arguments": {…}}``; the answer ``{"value": …}``, or ``{"refused": MESSAGE}`` for what the
user has written wrongly, or ``{"failed": {"where", "message", "statement"}}`` for what the user's code did.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_lakebranch.steps.blame import failure_of


class RefusedError(Exception):
    """What the user has written cannot work; the message says why and what to do."""


class FailedError(Exception):
    """A migration failed where no frame of the user's code shows it; ``where`` does, ``__cause__`` says how."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


Calls = dict[str, Callable[..., Any]]


def main(load: Callable[..., Calls]) -> None:
    """Serve the socket whose descriptor is the first argument of the program.

    ``load`` makes the calls when the first request comes, from the arguments of ``load`` in the greeting.
    """
    stream = socket.socket(fileno=int(sys.argv[1])).makefile("rw")
    greeting = json.loads(stream.readline())
    sys.path[:] = [entry for entry in dict.fromkeys([*greeting["path"], *sys.path]) if entry]
    root = Path(greeting["root"])
    calls: Calls = {}
    while line := stream.readline():
        request = json.loads(line)
        stream.write(json.dumps(_answer(request, calls, load, greeting["arguments"], root)) + "\n")
        stream.flush()


def _answer(
    request: dict[str, Any], calls: Calls, load: Callable[..., Calls], arguments: dict[str, Any], root: Path
) -> dict[str, Any]:
    try:
        if not calls:
            calls.update(load(**arguments))
        return {"value": calls[request["call"]](**request["arguments"])}
    except RefusedError as error:
        return {"refused": str(error)}
    except BaseException as error:  # noqa: BLE001  (user code may raise anything, also SystemExit: it is told)
        where = error.where if isinstance(error, FailedError) else ""
        cause = error.__cause__ if isinstance(error, FailedError) and error.__cause__ else error
        failure = failure_of(cause, root, otherwise=where)
        return {"failed": {"where": failure.where, "message": failure.message, "statement": failure.statement}}
