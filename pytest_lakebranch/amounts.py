"""Sizes, spans of time, counts and names with numbers, for people. Imported in every run: standard library only."""

from __future__ import annotations

import re

SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def size(text: str) -> int:
    """Bytes from a size such as ``500M`` or ``2G``; raises ValueError."""
    found = re.fullmatch(r"(\d+)([kmgt]?)(?:i?b)?", text.strip().lower(), re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 500M or 2G")
    return int(found[1]) * SIZES[found[2]]


def span(text: str) -> int:
    """Seconds from a span of time such as ``12h`` or ``7d``; raises ValueError."""
    found = re.fullmatch(r"(\d+)([smhdw])", text.strip().lower(), re.ASCII)
    if found is None:
        raise ValueError(f"{text!r} is not a span of time such as 30m, 12h or 7d")
    return int(found[1]) * SPANS[found[2]]


def size_text(count: float) -> str:
    """A number of bytes for a person: ``812 bytes``, ``599 kB``, ``1.2 MB``."""
    if count < 1000:
        return f"{count:.0f} bytes"
    size = count / 1000
    for unit in ("kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 9.95 and unit != "kB" else f"{size:.0f} {unit}"


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort names by as a person would, digits counting as numbers: 10 comes after 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def many(count: int, noun: str) -> str:
    """A count with its noun."""
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"
