"""Text of the page: escaping, numbers and tables for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

ENDINGS = {
    "clean": "nothing was written: the branch was used again as it was",
    "rewind": "what was written was undone in place",
    "replace": "the branch was thrown away",
    "keep": "the branch was left for a human",
}


def text(value: object) -> str:
    """Escaped for HTML, also inside attributes."""
    return escape(str(value), quote=True)


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 0.0995:
        return f"{value * 1e3:.1f} ms" if value < 0.00995 else f"{value * 1e3:.0f} ms"
    if value < 120:
        return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def mark(ending: str) -> str:
    """An ending as a coloured word."""
    return f'<span class="mark {text(ending)}">{text(ending)}</span>'


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; heads that begin with ``>`` mark columns of numbers."""
    right = [head.startswith(">") for head in heads]
    top = "".join(
        f'<th scope="col"{_number(flush)}>{text(head.lstrip(">"))}</th>'
        for head, flush in zip(heads, right, strict=True)
    )
    lines = (
        "<tr>" + "".join(f"<td{_number(flush)}>{cell}</td>" for cell, flush in zip(row, right, strict=True)) + "</tr>"
        for row in rows
    )
    head = f"<caption>{text(caption)}</caption><thead><tr>{top}</tr></thead>"
    body = "\n".join(lines)
    return f'<div class="wide"><table>{head}\n<tbody>{body}</tbody></table></div>'


def _number(flush: bool) -> str:
    return ' class="number"' if flush else ""
