"""What a thing is, in words: shared by text and Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import unified_diff

from pytest_lakebranch.schema.diff import Entry, SchemaDiff
from pytest_lakebranch.schema.model import Thing

_DEFINED = ("definition", "values", "attributes", "version", "subtype")
"""Facts that say what a thing is, without a word before them."""
_LONG = 100


def summary(diff: SchemaDiff) -> str:
    """How much, in one line."""
    counts = [(len(diff.added), "added"), (len(diff.removed), "removed"), (len(diff.changed), "changed")]
    text = ", ".join(f"{count} {word}" for count, word in counts if count)
    if diff.destructive:
        text += f"; {len(diff.destructive)} destructive"
    return text or ("no changes but of owners" if diff.notes else "no changes")


def described(thing: Thing) -> str:
    """A thing in one line, as far as one line can; rights, comments and owners are not in it."""
    if thing.kind == "column":
        return _column(thing)
    words = [thing.facts[word] for word in _DEFINED if word in thing.facts]
    words += [f"{word} {text}" for word, text in thing.facts.items() if word in ("type", "partition of", "bounds")]
    return " ".join(" ".join(words).split())


def _column(thing: Thing) -> str:
    words = [thing.facts["type"]]
    words += ["not null"] if thing.facts.get("not null") == "yes" else []
    words += [f"{word} {thing.facts[word]}" for word in ("default", "generated", "identity") if word in thing.facts]
    return " ".join(words)


def changes(entry: Entry) -> Iterator[str]:
    """What changed of a thing, line by line."""
    for word, (old, new) in entry.facts.items():
        if "\n" in f"{old}{new}" or len(f"{old}{new}") > _LONG:
            yield f"{word}:"
            yield from long_change(old, new)
        else:
            yield f"{word}: {'none' if old is None else old} → {'none' if new is None else new}"


def long_change(old: str | None, new: str | None) -> Iterator[str]:
    """A long text's changed lines, and those around them."""
    pairs = unified_diff((old or "").splitlines(), (new or "").splitlines(), lineterm="", n=1)
    for line in list(pairs)[2:]:
        if not line.startswith("@@"):
            yield f"  {line}".rstrip()


def short(part: Thing) -> str:
    """The name of a part without its table's."""
    return part.name.removeprefix(f"{part.of}.")
