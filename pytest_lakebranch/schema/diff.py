"""How two schemas differ, as something to read, to store and to assert."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pytest_lakebranch.schema import loss, renames
from pytest_lakebranch.schema.model import TABLES, Schema, Thing

Sign = Literal["+", "-", "~"]
FORMAT = 1
"""Of the JSON object: it changes when a key is renamed or removed, not when one is added."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One difference. ``before`` is None for what was added, ``after`` for what was removed.

    ``parts`` are those of a table that was added or removed whole; ``loss`` says what data it costs, empty if none;
    ``hint`` what else it may be.
    """

    before: Thing | None
    after: Thing | None
    parts: tuple[Thing, ...] = ()
    loss: str = ""
    hint: str = ""

    @property
    def sign(self) -> Sign:
        """``+``, ``-`` or ``~``."""
        if self.before is None:
            return "+"
        return "-" if self.after is None else "~"

    @property
    def thing(self) -> Thing:
        """It, as it is after the change where it is still there."""
        found = self.after or self.before
        assert found is not None  # noqa: S101  (made by compare() only)
        return found

    @property
    def title(self) -> str:
        """Kind and name, such as ``column public.orders.total``."""
        return self.thing.title

    @property
    def facts(self) -> dict[str, tuple[str | None, str | None]]:
        """What changed of it: each fact before and after; None where it does not hold."""
        old = {} if self.before is None else self.before.facts
        new = {} if self.after is None else self.after.facts
        words = dict.fromkeys([*old, *new])
        return {word: (old.get(word), new.get(word)) for word in words if old.get(word) != new.get(word)}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        stored: dict[str, Any] = {"kind": self.thing.kind, "name": self.thing.name, "of": self.thing.of}
        stored["facts"] = {word: list(values) for word, values in self.facts.items()}
        parts = [{"kind": part.kind, "name": part.name, "facts": dict(part.facts)} for part in self.parts]
        return {**stored, "parts": parts, "destructive": bool(self.loss), "loss": self.loss, "hint": self.hint}


@dataclass(frozen=True, slots=True)
class SchemaDiff:
    """What changed from one schema to another; false when nothing did. ``old`` and ``new`` name them.

    ``notes`` say what is no difference: that an owner is called otherwise throughout, in a database with other roles.
    """

    old: str
    new: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries)

    def __str__(self) -> str:
        return self.text()

    @property
    def added(self) -> tuple[str, ...]:
        """Titles of what was added, such as ``table public.orders``."""
        return self._titles("+")

    @property
    def removed(self) -> tuple[str, ...]:
        """Titles of what was removed."""
        return self._titles("-")

    @property
    def changed(self) -> tuple[str, ...]:
        """Titles of what is on both sides and differs."""
        return self._titles("~")

    @property
    def destructive(self) -> tuple[str, ...]:
        """Titles of what loses data."""
        return tuple(entry.title for entry in self.entries if entry.loss)

    def _titles(self, sign: Sign) -> tuple[str, ...]:
        return tuple(entry.title for entry in self.entries if entry.sign == sign)

    def only(
        self, *, added: Iterable[str] = (), removed: Iterable[str] = (), changed: Iterable[str] = ()
    ) -> Literal[True]:
        """True when exactly these things differ; AssertionError, naming all others, when not.

        Each is kind and name as in :attr:`added`; ``public.`` may be left out. The parts of a table that was added
        or removed whole are not named.
        """
        __tracebackhide__ = True
        wanted = {"+": set(added), "-": set(removed), "~": set(changed)}
        wrong = list(_surprises(self.entries, wanted))
        if wrong:
            raise AssertionError("the schema differs otherwise:\n" + "\n".join(wrong) + f"\n\n{self.text()}")
        return True

    def text(self) -> str:
        """For a terminal or a golden file: the same for the same difference, whatever the databases are called."""
        from pytest_lakebranch.schema.text import text

        return text(self)

    def markdown(self) -> str:
        """For a pull request."""
        from pytest_lakebranch.schema.markdown import markdown

        return markdown(self)

    def to_json(self) -> dict[str, Any]:
        """For programs: ``added``, ``removed`` and ``changed``, each a list."""
        listed = {
            name: [entry.to_json() for entry in self.entries if entry.sign == sign]
            for name, sign in (("added", "+"), ("removed", "-"), ("changed", "~"))
        }
        return {"version": FORMAT, "from": self.old, "to": self.new, **listed, "notes": list(self.notes)}


def _surprises(entries: Iterable[Entry], wanted: Mapping[str, set[str]]) -> Iterator[str]:
    left = {sign: set(titles) for sign, titles in wanted.items()}
    for entry in entries:
        spellings = {entry.title, entry.title.replace(" public.", " ", 1)}
        if not spellings & wanted[entry.sign]:
            yield f"  not expected: {entry.sign} {entry.title}"
        left[entry.sign] -= spellings
    yield from (f"  missing:      {sign} {title}" for sign, titles in left.items() for title in sorted(titles))


def compare(
    before: Schema, after: Schema, *, old: str = "before", new: str = "after", other_roles: bool = False
) -> SchemaDiff:
    """What leads from ``before`` to ``after``.

    With ``other_roles`` the two are of clusters whose roles may have other names: an owner who is called otherwise
    throughout is a note, else it is a difference of each thing.
    """
    handed, notes = _handed_over(before, after) if other_roles else ({}, [])
    entries = [entry for entry in _entries(before, after) if not _is_owner_only(entry, handed)]
    entries = [entry for entry in entries if not (entry.thing.follows and _is_inherited(entry, entries))]
    hinted = renames.hints([entry.before for entry in entries if entry.after is None and entry.before], before, after)
    made = [_with_hint(entry, hinted) for entry in entries]
    return SchemaDiff(old, new, tuple(sorted(made, key=_place)), tuple(notes))


def _place(entry: Entry) -> tuple[object, ...]:
    return (*entry.thing.place, entry.sign)


def _with_hint(entry: Entry, hinted: Mapping[str, str]) -> Entry:
    hint = hinted.get(f"{entry.sign} {entry.title}", "")
    return Entry(entry.before, entry.after, entry.parts, entry.loss, hint) if hint else entry


def _entries(before: Schema, after: Schema) -> Iterator[Entry]:
    for key in dict.fromkeys([*before.things, *after.things]):
        old, new = before.things.get(key), after.things.get(key)
        if old == new:
            continue
        if old is not None and new is not None:
            yield Entry(old, new, loss=loss.of_change(old, new, before, after))
        elif new is not None and not _with_its_table(new, before, after):
            yield Entry(None, new, _parts(new, after))
        elif old is not None and not _with_its_table(old, after, before):
            yield Entry(old, None, _parts(old, before), loss=loss.of_removal(old))


def _with_its_table(thing: Thing, absent: Schema, present: Schema) -> bool:
    """Whether the table that ``thing`` belongs to is on one side only, so that its own entry tells of it."""
    keys = [(kind, thing.of) for kind in TABLES]
    return any(key in present.things for key in keys) and not any(key in absent.things for key in keys)


def _parts(thing: Thing, schema: Schema) -> tuple[Thing, ...]:
    return tuple(part for part in schema if part.of == thing.name) if thing.kind in TABLES else ()


def _is_inherited(entry: Entry, entries: Iterable[Entry]) -> bool:
    """Whether a column of a partition or a child table differs just as its parent's does."""
    return any(
        other.thing.name in entry.thing.follows and (other.sign, other.facts) == (entry.sign, entry.facts)
        for other in entries
        if other.thing.kind == "column"
    )


def _handed_over(before: Schema, after: Schema) -> tuple[dict[str, str], list[str]]:
    """Owners whose things, all of them and no others, have one other owner: databases with other names for roles."""
    owners = {
        (before.things[key].facts.get("owner"), after.things[key].facts.get("owner"))
        for key in before.things.keys() & after.things.keys()
    }
    moved = {
        old: new
        for old, new in sorted((old, new) for old, new in owners if old and new and old != new)
        if sum(old == pair[0] for pair in owners) == sum(new == pair[1] for pair in owners) == 1
    }
    return moved, [f"what belonged to {old} belongs to {new}" for old, new in moved.items()]


def _is_owner_only(entry: Entry, handed: Mapping[str, str]) -> bool:
    old, new = entry.facts.get("owner", (None, None))
    return entry.sign == "~" and set(entry.facts) == {"owner"} and handed.get(old or "") == new
