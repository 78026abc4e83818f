"""Hints that a removed and an added thing may be one that was renamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

from pytest_lakebranch.schema.model import TABLES, Schema, Thing

_ALIKE = 0.5
"""How similar two names must be (difflib's ratio) where several things are equal but for their names."""
_UNTOLD = ("comment", "identity sequence")


def hints(removed: Iterable[Thing], before: Schema, after: Schema) -> dict[str, str]:
    """By sign and title: what each thing may have been renamed to, or from. Nobody can know: it is a hint."""
    told: dict[str, str] = {}
    for old in removed:
        new = _heir(old, before, after)
        if new is not None:
            told[f"- {old.title}"] = f"renamed to {new.name}? It was added, and is equal but for the name"
            told[f"+ {new.title}"] = f"renamed from {old.name}? It was removed, and is equal but for the name"
    return told


def _heir(old: Thing, before: Schema, after: Schema) -> Thing | None:
    """The added thing that equals ``old`` and that no other removed one equals as well."""
    fresh = [thing for thing in after if _may_be(thing, old) and (thing.kind, thing.name) not in before.things]
    equal = [thing for thing in fresh if _look(thing, after) == _look(old, before)]
    rivals = [
        thing
        for thing in before
        if _may_be(thing, old)
        and (thing.kind, thing.name) not in after.things
        and _look(thing, before) == _look(old, before)
    ]
    if len(equal) == len(rivals) == 1:
        return equal[0]
    alike = [thing for thing in equal if _ratio(thing, old) >= _ALIKE and _ratio(thing, old) == _best(thing, rivals)]
    return max(alike, key=lambda thing: _ratio(thing, old), default=None)


def _best(thing: Thing, rivals: Iterable[Thing]) -> float:
    return max(_ratio(thing, rival) for rival in rivals)


def _may_be(thing: Thing, old: Thing) -> bool:
    return (thing.kind, thing.of) == (old.kind, old.of)


def _ratio(one: Thing, other: Thing) -> float:
    return SequenceMatcher(None, _last(one), _last(other)).ratio()


def _last(thing: Thing) -> str:
    return thing.name.removeprefix(f"{thing.of}.") if thing.of else thing.name.rpartition(".")[2]


def _look(thing: Thing, schema: Schema) -> tuple[object, ...]:
    """Everything about a thing but its name; of a table also its columns."""
    facts = tuple((word, _without(text, thing)) for word, text in sorted(thing.facts.items()) if word not in _UNTOLD)
    return (facts, tuple(_columns(thing, schema)) if thing.kind in TABLES else ())


def _columns(table: Thing, schema: Schema) -> Iterator[tuple[str, str]]:
    for part in schema:
        if part.of == table.name and part.kind == "column":
            yield _last(part), part.facts["type"]


def _without(text: str, thing: Thing) -> str:
    return text.replace(thing.name, "*").replace(_last(thing), "*")
