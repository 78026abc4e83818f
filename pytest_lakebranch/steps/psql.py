"""Running one file of SQL with psql, and reading what psql says when it fails."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_lakebranch.steps import programs
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure
from pytest_lakebranch.steps.files import shown

_ENTRY = re.compile(r"^psql:(?P<file>.+?):(?P<line>\d+): ", re.MULTILINE)
_STATEMENT = "STATEMENT:  "
_END_CHECK = "DISCARD ALL"
"""Refused inside a transaction, and otherwise without effect on what is stored."""


def run_file(place: Workplace, file: Path, *, cwd: Path) -> Failure | None:
    """Run ``file`` until its first error; None when every statement succeeded and was committed."""
    done = programs.run(
        place,
        "psql",
        *("--no-psqlrc", "--quiet", "--echo-errors", "--set=ON_ERROR_STOP=1"),
        *programs.connected(place),
        *("--file", str(file), "--command", _END_CHECK),
        cwd=cwd,
    )
    if done.status == 0:
        return None
    if "DISCARD ALL cannot run inside a transaction block" in done.errors:
        return Failure(
            f"the end of {shown(file, place.root)}",
            "the file ends inside a transaction: its BEGIN has no COMMIT, so its changes would be lost. "
            "Add the COMMIT.",
        )
    return _failure(done.errors, cwd=cwd, root=place.root) or Failure(
        shown(file, place.root), done.errors.strip() or f"psql ended with status {done.status} and said nothing"
    )


def _failure(errors: str, *, cwd: Path, root: Path) -> Failure | None:
    """The last thing psql reported: it stops at the first error, and notices come before."""
    starts = list(_ENTRY.finditer(errors))
    ends = [*(start.start() for start in starts[1:]), len(errors)]
    texts = [errors[start.end() : end].rstrip() for start, end in zip(starts, ends, strict=True)]
    statement = ""
    if texts and texts[-1].startswith(_STATEMENT):
        statement = texts.pop().removeprefix(_STATEMENT)
    if not texts:
        return None
    last = starts[len(texts) - 1]
    message = "\n".join(texts[_first_of_message(texts) :]).removeprefix("error: ")
    return Failure(f"{shown(cwd / last['file'], root)}:{last['line']}", message, statement)


def _first_of_message(texts: list[str]) -> int:
    """Where the message begins: a lost connection is reported in three entries, the reason first."""
    fatal = [number for number, text in enumerate(texts) if text.startswith(("FATAL:", "PANIC:"))]
    return fatal[0] if fatal else len(texts) - 1
