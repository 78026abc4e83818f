"""What commands print: a table or lines for a person, or one JSON object."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

VERSION = 1
"""Of the JSON objects: it changes when a key is renamed or removed, not when one is added."""


def show(parsed: Namespace, facts: dict[str, Any], lines: Iterable[str]) -> None:
    """Print ``facts`` as JSON where that was asked for, else ``lines``."""
    import json

    text = json.dumps({"version": VERSION, **facts}, indent=2) if parsed.json else "\n".join(lines)
    if text:
        sys.stdout.write(f"{text}\n")


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
    if count is None:
        return "?"
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):  # noqa: B007  (the last one is meant)
        if amount < 1000:
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{amount:.1f} {unit}"


def age(seconds: float) -> str:
    """A span of time for a person, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def many(count: int, noun: str) -> str:
    """A count with its noun."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"
