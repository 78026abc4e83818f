"""How a step failed, in one message: where, what the server said, the statement, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.masking import masked

LINES = 10
CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """What a program or a Python function reported. ``where`` is ``FILE:LINE`` or what else locates it."""

    where: str
    message: str
    statement: str = ""


def base_error(label: str, failure: Failure, advice: str = "") -> BaseError:
    """The error that a step raises, without the secrets in what failed; ``advice`` is what the user may do about it."""
    parts = [f"{label} failed at {failure.where}:", indented(masked(failure.message))]
    if failure.statement:
        parts += ["statement:", indented(shortened(masked(failure.statement)))]
    if advice:
        parts.append(advice)
    return BaseError("\n".join(parts))


def shortened(text: str) -> str:
    """At most ten lines and 500 characters of ``text``, saying how much was left out."""
    lines = text.strip("\n").splitlines()
    kept = "\n".join(lines[:LINES])
    if len(kept) > CHARACTERS:
        return f"{kept[:CHARACTERS]}… ({len(text):,} characters in all)"
    return kept if len(lines) <= LINES else f"{kept}\n… ({len(lines) - LINES:,} more lines)"


def indented(text: str) -> str:
    """As messages show what others have said."""
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())
