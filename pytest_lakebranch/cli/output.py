"""What commands print: a table or lines for a person, or one JSON object."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from pytest_lakebranch import amounts

VERSION = 1
"""Of the JSON objects: it changes when a key is renamed or removed, not when one is added."""


def show(parsed: Namespace, facts: dict[str, Any], lines: Iterable[str]) -> None:
    """Print ``facts`` as JSON where that was asked for, else ``lines``."""
    import json

    text = json.dumps({"version": VERSION, **facts}, indent=2) if parsed.json else "\n".join(lines)
    if text:
        sys.stdout.write(f"{_encodable(text)}\n")


def _encodable(text: str) -> str:
    """``text`` with what standard output cannot take, such as a path that is no UTF-8, written with a backslash."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns; heads that begin with ``>`` mark columns that are aligned to the right."""
    right = [head.startswith(">") for head in heads]
    cells = [[head.lstrip(">") for head in heads], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    return [_line(row, widths, right) for row in cells]


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if flush else cell.ljust(width) for cell, width, flush in zip(row, widths, right, strict=True)
    )
    return "  ".join(aligned).rstrip()


def size(count: int | None) -> str:
    """Bytes for a person; ``?`` where they were not measured."""
    return "?" if count is None else amounts.size_text(count)


def age(seconds: float) -> str:
    """A span of time for a person, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
