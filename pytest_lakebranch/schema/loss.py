"""Which changes of a schema lose data, or names that data is stored under."""

from __future__ import annotations

import re

from pytest_lakebranch.schema.model import Schema, Thing

_WIDER = (
    ("smallint", "integer", "bigint", "numeric"),
    ("smallint", "integer", "double precision"),
    ("smallint", "real", "double precision"),
    ("character varying", "text"),
    ("date", "timestamp without time zone"),
)
"""In each line, each type holds every value of those before it."""
_MADE = ("enum", "domain", "range", "type")
_ABOUT = ("owner", "comment", "grants to")
"""How facts begin that say nothing of values."""
_ATTRIBUTE = re.compile(r"""((?:"(?:[^"]|"")*"|[^\s,"])+) ((?:"(?:[^"]|"")*"|\([^)]*\)|[^,"(])+)""")


def of_removal(thing: Thing) -> str:
    """What is lost with ``thing``; empty when nothing that cannot be made again."""
    if thing.kind == "table":
        return "its rows are lost"
    if thing.kind == "column" and "generated" not in thing.facts:
        return "its values are lost"
    return "its position is lost" if thing.kind == "sequence" else ""


def of_change(before: Thing, after: Thing, old: Schema, new: Schema) -> str:
    """What is lost when ``before``, of schema ``old``, becomes ``after``, of ``new``; empty when nothing is."""
    if before.kind == "column":
        return _of_column(before, after, old, new)
    if before.kind == "enum":
        gone = [label for label in _labels(before) if label not in _labels(after)]
        return f"values are gone: {', '.join(gone)}" if gone else ""
    if before.kind == "type":
        kept = _attributes(after)
        gone = [name for name, held in _attributes(before).items() if name not in kept or not _holds(kept[name], held)]
        return f"values of attributes are lost: {', '.join(gone)}" if gone else ""
    return ""


def _of_column(before: Thing, after: Thing, of_old: Schema, of_new: Schema) -> str:
    old, new = before.facts["type"], after.facts["type"]
    if not _holds(new, old) or _is_another(old, new, of_old, of_new):
        return f"not every {old} is a {new}"
    if "generated" in after.facts and "generated" not in before.facts:
        return "its values are replaced by the expression's"
    return ""


def _is_another(old: str, new: str, of_old: Schema, of_new: Schema) -> bool:
    """Whether a type that seems to have moved to another schema is one of that name that lacks something."""
    had, has = _made(old, of_old), _made(new, of_new)
    if old == new or (had is None and has is None):  # as it was, or an extension's
        return False
    if had is None or has is None or had.kind != has.kind:
        return True
    return bool(of_change(had, has, of_old, of_new)) if had.kind in ("enum", "type") else _values(had) != _values(has)


def _made(written: str, schema: Schema) -> Thing | None:
    name = written.rstrip("[]")
    return next((found for kind in _MADE if (found := schema.things.get((kind, name)))), None)


def _values(thing: Thing) -> dict[str, str]:
    return {word: text for word, text in thing.facts.items() if not word.startswith(_ABOUT)}


def _attributes(composite: Thing) -> dict[str, str]:
    """Types by name."""
    return dict(_ATTRIBUTE.findall(composite.facts.get("attributes", "")))


def _labels(enum: Thing) -> list[str]:
    return re.findall(r"'(?:[^']|'')*'", enum.facts.get("values", ""))


def _holds(new: str, old: str) -> bool:
    """Whether every value of type ``old`` is surely one of type ``new``."""
    while new.endswith("[]") and old.endswith("[]"):
        new, old = new[:-2], old[:-2]
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
    orders = (order for order in _WIDER if new in order and old in order)
    return any(order.index(new) > order.index(old) for order in orders)


def _all_digits(old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    """``numeric(precision, scale)`` keeps its digits on both sides of the point; one size has just to grow."""
    if len(old) == len(new) == 2:
        return new[1] >= old[1] and new[0] - new[1] >= old[0] - old[1]
    return len(old) == len(new) and all(one >= other for one, other in zip(new, old, strict=True))
