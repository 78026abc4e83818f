"""The order of the files in a folder of SQL, and what their names say.

Names may carry a version in front, in one of three manners:

    0002_price.sql, 20240131_price.sql, price.sql      any: numbers count as numbers, so 2 comes before 10
    0002_price.up.sql, 0002_price.down.sql             the second undoes the first (golang-migrate's manner)
    V2__price.sql, V2.1__more.sql, U2__price.sql, R__views.sql
                                                       Flyway's: U undoes V of the same version; R comes last

"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.amounts import natural
from pytest_lakebranch.errors import ConfigError

_FLYWAY = re.compile(r"(?:(?P<kind>[VU])(?P<version>\d+(?:[._]\d+)*)|(?P<repeatable>R))__(?P<name>.+)\.sql")
_PLAIN = re.compile(r"(?P<version>\d+(?:[._-]\d+)*)?(?:__|[_.\- ]+)?(?P<name>.*?)(?:\.up)?\.sql", re.IGNORECASE)
_DOWN_SECTION = re.compile(
    rb"^--[ \t]*(?:\+goose[ \t]+Down|migrate:down|rambler[ \t]+down)", re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file to run, what its name says, and the file that undoes it if there is one."""

    file: Path
    revision: str
    name: str
    undo: Path | None


def entries(folder: Path, label: str) -> list[Entry]:
    """The files of ``folder`` in the order in which they run; ConfigError when there is none, or no order."""
    with os.scandir(folder) as listed:  # half the time of a glob, and there may be hundreds
        found = [folder / entry.name for entry in listed if entry.name.endswith(".sql") and entry.is_file()]
    if not found:
        raise ConfigError(f"{label}: the folder {folder} has no file named *.sql.")
    flyway = any(_FLYWAY.fullmatch(path.name) for path in found)
    return _flyway(found, label) if flyway else _plain(found, label)


def check_sections(file: Path, text: bytes, label: str) -> None:
    """ConfigError when a file holds the way back too: psql would run both, and leave nothing."""
    found = _DOWN_SECTION.search(text)
    if found:
        raise ConfigError(
            f"{label}: {file} has a section {found[0].decode().strip()!r}, which psql would run too. "
            "Let the tool run it (command:), or put the way back into a file of its own, NAME.down.sql."
        )


def _plain(found: list[Path], label: str) -> list[Entry]:
    downs = {path.name.lower(): path for path in found if path.name.lower().endswith(".down.sql")}
    ups = sorted((path for path in found if path.name.lower() not in downs), key=lambda path: natural(path.name))
    if not ups:
        raise ConfigError(f"{label}: {found[0].parent} has nothing to apply, only files named *.down.sql.")
    versions = Counter(_version(path) for path in ups)
    return [_plain_entry(path, downs, unique=versions[_version(path)] == 1) for path in ups]


def _version(path: Path) -> str:
    return (_PLAIN.fullmatch(path.name) or {})["version"] or ""  # type: ignore[index]  # it matches every *.sql


def _plain_entry(path: Path, downs: dict[str, Path], *, unique: bool) -> Entry:
    match = _PLAIN.fullmatch(path.name)
    version, name = (match["version"], match["name"]) if match else (None, path.stem)
    stem = path.name[: -len(".sql")]
    plain = stem[: -len(".up")] if stem.lower().endswith(".up") else stem
    undo = downs.get(f"{plain}.down.sql".lower())
    return Entry(path, version if version and unique else stem, name if version else "", undo)


def _flyway(found: list[Path], label: str) -> list[Entry]:
    matches = [(path, _FLYWAY.fullmatch(path.name)) for path in found]
    strange = sorted(path.name for path, match in matches if match is None)
    if strange:
        raise ConfigError(
            f"{label}: {', '.join(strange[:3])}: beside files named V1__NAME.sql, all must be named V…__, U…__ or "
            "R__NAME.sql. Callbacks and others need Flyway itself: use command:."
        )
    known = [(path, match) for path, match in matches if match is not None]
    undos = {_numbers(match["version"]): path for path, match in known if match["kind"] == "U"}
    versioned = [(_numbers(match["version"]), path, match) for path, match in known if match["kind"] == "V"]
    _refuse_twice([(numbers, path) for numbers, path, _ in versioned], label)
    ordered = sorted(versioned, key=lambda found: found[0])
    last = sorted(((match["name"], path) for path, match in known if match["repeatable"]))
    return [
        *(Entry(path, _dotted(numbers), match["name"], undos.get(numbers)) for numbers, path, match in ordered),
        *(Entry(path, f"R__{name}", name, None) for name, path in last),
    ]


def _refuse_twice(versions: Iterable[tuple[tuple[int, ...], Path]], label: str) -> None:
    seen: dict[tuple[int, ...], Path] = {}
    for numbers, path in versions:
        other = seen.setdefault(numbers, path)
        if other is not path:
            names = " and ".join(sorted((other.name, path.name)))
            raise ConfigError(f"{label}: {names} have the same version {_dotted(numbers)}: there is no order.")


def _numbers(version: str) -> tuple[int, ...]:
    """Flyway's order: 1.0 is 1, and 1_2 is 1.2."""
    numbers = [int(part) for part in re.split(r"[._]", version)]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
