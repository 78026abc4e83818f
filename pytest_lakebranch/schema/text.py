"""A diff as text, for terminals and golden files."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_lakebranch.schema import words
from pytest_lakebranch.schema.diff import Entry, SchemaDiff


def text(diff: SchemaDiff) -> str:
    """All entries, with a newline at the end; the databases' names are not in it."""
    lines = [words.summary(diff), *(f"note: {note}" for note in diff.notes)]
    for entry in diff.entries:
        lines += _entry(entry)
    return "\n".join(lines) + "\n"


def _entry(entry: Entry) -> Iterator[str]:
    what = f"  {words.described(entry.thing)}".rstrip() if entry.sign != "~" else ""
    yield f"{entry.sign} {entry.title}{what}"
    if entry.loss:
        yield f"    DESTRUCTIVE: {entry.loss}"
    if entry.hint:
        yield f"    hint: {entry.hint}"
    for part in entry.parts:
        yield f"    {part.kind} {words.short(part)}  {words.described(part)}".rstrip()
    if entry.sign == "~":
        yield from (f"    {line}" for line in words.changes(entry))
