"""A diff as Markdown, for pull requests and job summaries."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_lakebranch.schema import words
from pytest_lakebranch.schema.diff import Entry, SchemaDiff, Sign

_MOST = 60_000
"""Characters: GitHub takes 65,536 for a comment."""
_HEADS: tuple[tuple[Sign, str], ...] = (("-", "Removed"), ("~", "Changed"), ("+", "Added"))


def markdown(diff: SchemaDiff) -> str:
    """What loses data first; then what was removed, changed and added."""
    lines = ["### Schema diff", "", f"From {code(diff.old)} to {code(diff.new)}: {words.summary(diff)}.", ""]
    lines += [*(f"Note: {plain(note)}." for note in diff.notes), ""] if diff.notes else []
    lines += _destructive(diff)
    for sign, head in _HEADS:
        entries = [entry for entry in diff.entries if entry.sign == sign]
        if entries:
            lines += [f"#### {head}", "", *(line for entry in entries for line in _entry(entry)), ""]
    return _limited("\n".join(lines).rstrip() + "\n")


def _destructive(diff: SchemaDiff) -> Iterator[str]:
    if diff.destructive:
        yield "> [!CAUTION]"
        yield "> **Destructive:**"
        yield from (
            f"> - {'removes' if entry.sign == '-' else 'changes'} {code(entry.title)}: {plain(entry.loss)}"
            for entry in diff.entries
            if entry.loss
        )
        yield ""


def _entry(entry: Entry) -> Iterator[str]:
    mark = " ⚠️" if entry.loss else ""
    inner = list(_inner(entry))
    what = words.described(entry.thing) if entry.sign != "~" else ""
    tail = f": {code(what)}" if what and len(what) < 160 else ""
    yield f"- {entry.thing.kind} {code(entry.thing.name)}{mark}{tail}"
    if entry.hint:
        yield f"  <br>_{plain(entry.hint)}_"
    if inner:
        fence = "`" * (max(3, *(line.count("`") + 1 for line in inner)))
        yield from (f"  {line}".rstrip() for line in ("", f"{fence}diff", *inner, fence, ""))


def _inner(entry: Entry) -> Iterator[str]:
    """In GitHub's ``diff`` language a line's first character gives its colour."""
    if entry.sign != "~":
        for part in entry.parts:
            yield f"{entry.sign} {part.kind} {words.short(part)} {words.described(part)}".rstrip()
        return
    for word, (old, new) in entry.facts.items():
        if "\n" in f"{old}{new}":
            yield f"  {word}:"
            yield from (line.strip() if line.strip()[:1] in "+-" else line for line in words.long_change(old, new))
        else:
            yield from () if old is None else (f"- {word}: {old}",)
            yield from () if new is None else (f"+ {word}: {new}",)


def code(text: str) -> str:
    """As inline code, whatever is in it."""
    if "`" not in text:
        return f"`{text}`"
    return f"`` {text} ``" if "``" not in text else plain(text)


def cell(text: str) -> str:
    """As inline code in a table, where a bar ends the cell even within code."""
    return code(text).replace("\\|", "|").replace("|", "\\|")


def plain(text: str) -> str:
    """Without anything that Markdown or HTML would take for its own."""
    for character in "\\`*_{}[]<>|#":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def _limited(text: str) -> str:
    if len(text) <= _MOST:
        return text
    kept = text[:_MOST].rpartition("\n- ")[0]
    return f"{kept}\n\n_{len(text) - len(kept):,} more characters were left out; the other formats have everything._\n"
