"""Which other files psql would read while it runs a file of SQL.

Found by their spelling, not by running anything: ``\\i``, ``\\ir``, ``\\include``, ``\\include_relative``,
``\\lo_import``, ``\\copy … from`` and COPY from an absolute path.  Too much may be found (in a comment, say), which
costs at most a rebuild; a name made of psql variables is not found: that is what ``inputs=`` is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from pytest_lakebranch.errors import ConfigError

_NAME = rb"(?P<name>'(?:[^'\n]|'')*'|\"[^\"\n]*\"|[^\s;\\]+)"
_INCLUDE = re.compile(rb"\\(?P<command>ir?|include(?:_relative)?|lo_import)[ \t]+" + _NAME)
_COPY = re.compile(rb"\\copy\b.*?\b(?i:from)[ \t]+" + _NAME)
_SERVER_COPY = re.compile(rb"\bfrom\s+(?P<name>'/[^'\n]+')", re.IGNORECASE)
_RELATIVE = (b"ir", b"include_relative")
_PIECE = 1 << 20
_NOT_FILES = ("stdin", "pstdin", "program")


def included(file: Path, *, cwd: Path, label: str) -> list[tuple[str, Path]]:
    """Every file that ``file`` reads, directly or not, once each: its name as written and its path.

    A missing one is in the list: only psql knows whether it would have been read.
    """
    found: dict[Path, str] = {}
    file = _normal(file)
    waiting = [file]
    while waiting:
        for name, path, is_sql in _read_by(waiting.pop(), cwd, label):
            if path not in found and path != file:
                found[path] = name
                waiting += [path] if is_sql and path.is_file() else []
    return [(name, path) for path, name in found.items()]


def _read_by(file: Path, cwd: Path, label: str) -> Iterator[tuple[str, Path, bool]]:
    try:
        with file.open("rb") as source:
            while text := source.read(_PIECE) + source.readline():
                yield from _named_in(text, file.parent, cwd)
    except OSError as error:
        raise ConfigError(f"{label}: {file} cannot be read: {error.strerror}.") from error


def _named_in(text: bytes, folder: Path, cwd: Path) -> Iterator[tuple[str, Path, bool]]:
    """The files named in some whole lines; the tests for a substring make big files of data cheap."""
    for match in _INCLUDE.finditer(text):
        if name := _unquoted(match["name"]):
            base = folder if match["command"] in _RELATIVE else cwd
            yield name, _normal(base / Path(name).expanduser()), match["command"] != b"lo_import"
    for sign, pattern in ((b"\\copy", _COPY), (b"'/", _SERVER_COPY)):
        for match in pattern.finditer(text) if sign in text else ():
            name = _unquoted(match["name"])
            if name and name.lower() not in _NOT_FILES:
                yield name, _normal(cwd / Path(name).expanduser()), False


def _normal(path: Path) -> Path:
    """Without ``..``, by the spelling, as psql does it (canonicalize_path in PostgreSQL's src/port/path.c)."""
    return Path(os.path.normpath(path))


def _unquoted(raw: bytes) -> str:
    """The name without its quotes; empty when psql would compute it from a variable or a command."""
    text = os.fsdecode(raw)
    if text[0] in "'\"":
        return text[1:-1].replace("''", "'")
    return "" if text[0] == "`" or re.search(r":[\w'\"{]", text) else text
