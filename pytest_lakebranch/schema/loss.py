"""Which changes of a schema lose data, or names that data is stored under."""

from __future__ import annotations

import re

from pytest_lakebranch.schema.model import Thing

_WIDER = ("smallint", "integer", "bigint", "numeric")
"""Each holds every value of those before it."""
_TEXTS = ("character varying", "text")


def of_removal(thing: Thing) -> str:
    """What is lost with ``thing``; empty when nothing that cannot be made again."""
    if thing.kind == "table":
        return "its rows are lost"
    if thing.kind == "column" and "generated" not in thing.facts:
        return "its values are lost"
    return "its position is lost" if thing.kind == "sequence" else ""


def of_change(before: Thing, after: Thing) -> str:
    """What is lost when ``before`` becomes ``after``; empty when nothing is."""
    if before.kind == "column":
        return _of_column(before, after)
    if before.kind == "enum":
        gone = [label for label in _labels(before) if label not in _labels(after)]
        return f"values are gone: {', '.join(gone)}" if gone else ""
    return ""


def _of_column(before: Thing, after: Thing) -> str:
    old, new = before.facts["type"], after.facts["type"]
    if not _holds(new, old):
        return f"not every {old} is a {new}"
    if "generated" in after.facts and "generated" not in before.facts:
        return "its values are replaced by the expression's"
    return ""


def _labels(enum: Thing) -> list[str]:
    return re.findall(r"'(?:[^']|'')*'", enum.facts.get("values", ""))


def _holds(new: str, old: str) -> bool:
    """Whether every value of type ``old`` is surely one of type ``new``."""
    (new_name, new_size), (old_name, old_size) = _split(new), _split(old)
    if new_name != old_name:
        return _is_wider(new_name, old_name) and not new_size
    if not new_size or new_size == old_size:
        return True
    return bool(old_size) and _all_digits(old_size, new_size)


def _split(written: str) -> tuple[str, tuple[int, ...]]:
    """Name and modifiers; a type that only moved to another schema keeps its name."""
    found = re.fullmatch(r"(?P<name>[^(]*)(?:\((?P<size>[\d,]+)\))?(?P<rest>.*)", written)
    if found is None:
        return written, ()
    sizes = tuple(int(number) for number in (found["size"] or "").split(",") if number)
    return found["name"].rsplit(".", 1)[-1] + found["rest"], sizes


def _is_wider(new: str, old: str) -> bool:
    for order in (_WIDER, _TEXTS):
        if new in order and old in order:
            return order.index(new) > order.index(old)
    return False


def _all_digits(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """``numeric(precision, scale)`` keeps its digits on both sides of the point; one size has just to grow."""
    if len(old) == len(new) == 2:
        return new[1] >= old[1] and new[0] - new[1] >= old[0] - old[1]
    return len(old) == len(new) and all(one >= other for one, other in zip(new, old, strict=True))
