"""The order of the files in a folder of SQL, and what their names say.

Names may carry a version in front, in one of three manners:

    0002_price.sql, 20240131_price.sql, price.sql      any: numbers count as numbers, so 2 comes before 10
    0002_price.up.sql, 0002_price.down.sql             the second undoes the first (golang-migrate's manner)
    V2__price.sql, V2.1__more.sql, U2__price.sql, R__views.sql
                                                       Flyway's: U undoes V of the same version; R comes last. As with
                                                       Flyway, they may lie in folders of the folder too

"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pytest_lakebranch.amounts import natural
from pytest_lakebranch.errors import ConfigError

_FLYWAY = re.compile(r"(?:(?P<kind>[VU])(?P<version>\d+(?:[._]\d+)*)|(?P<repeatable>R))__(?P<name>.+)\.(?i:sql)")
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
    itself, *below = _walk(folder, label)
    top, deep = _sql([itself]), _sql(below)
    if any(_FLYWAY.fullmatch(path.name) for path in top or deep):
        found = [*top, *(path for path in deep if _FLYWAY.fullmatch(path.name))]
        _refuse_absent(found, label)
        return _flyway(found, folder, label)
    _refuse_absent(top, label)
    if not top:
        where = f" itself, only below, such as {deep[0].relative_to(folder)}" if deep else ""
        raise ConfigError(f"{label}: the folder {folder} has no file named *.sql{where}.")
    return _plain(top, label)


def left_out(folder: Path, label: str) -> set[Path]:
    """Files named ``*.sql`` in folders of the folder that are neither run with it, nor undo any that is."""
    deep = set(_sql(_walk(folder, label)[1:]))
    return deep and deep - {path for entry in entries(folder, label) for path in (entry.file, entry.undo) if path}


def folders(folder: Path, label: str) -> list[Path]:
    """The folder and those in it whose files may be run with it."""
    return [Path(directory) for directory, _ in _walk(folder, label)]


def _walk(folder: Path, label: str) -> list[tuple[str, list[str]]]:
    """The folder and those in it, with the names of their files; ConfigError when one cannot be read that may matter.

    Hidden ones and other people's packages are none of the project's. Below a folder that is not Flyway's nothing is
    run: those that cannot be read are left away there.
    """
    found: list[tuple[str, list[str]]] = []
    unread: list[OSError] = []
    for directory, names, files in os.walk(folder, onerror=unread.append):
        names[:] = sorted(name for name in names if not _is_foreign(Path(directory, name)))
        found.append((directory, [name for name in files if not name.startswith(".")]))
    if unread and (not found or any(_FLYWAY.fullmatch(name) for _, names in found for name in names)):
        raise ConfigError(
            f"{label}: the folder {unread[0].filename} cannot be read: {unread[0].strerror}. Allow it, or move it "
            "elsewhere if nothing in it is to be run."
        )
    return found


def _is_foreign(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name == "node_modules":
        return True
    return os.path.exists(folder / "pyvenv.cfg")  # noqa: PTH110  (False also where the folder cannot be entered)


def _sql(walked: Iterable[tuple[str, list[str]]]) -> list[Path]:
    return [
        Path(directory, name) for directory, names in walked for name in sorted(names) if name[-4:].lower() == ".sql"
    ]


def _refuse_absent(found: Iterable[Path], label: str) -> None:
    """ConfigError when something that is named as a file to run is none."""
    for path in found:
        if not path.is_file():
            link = f": it is a link to {path.readlink()}" if path.is_symlink() else ""
            raise ConfigError(f"{label}: {path} cannot be run, for there is no such file{link}. Mend it or remove it.")


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
    made = [_plain_entry(path, downs, unique=versions[_version(path)] == 1) for path in ups]
    _refuse_idle(downs.values(), made, label)
    return made


def _refuse_idle(undos: Iterable[Path], made: Iterable[Entry], label: str) -> None:
    """ConfigError when a file undoes nothing: most likely its name is misspelt."""
    idle = set(undos) - {entry.undo for entry in made}
    if idle:
        file = min(idle)
        without = {entry.file.name: entry.file for entry in made if entry.undo is None}
        near = get_close_matches(file.name, without, n=1, cutoff=0.5)
        mean = f" Is it meant to undo {near[0]}?" if near else ""
        raise ConfigError(f"{label}: {file} undoes nothing: there is no file that its name belongs to.{mean}")


def _version(path: Path) -> str:
    return (_PLAIN.fullmatch(path.name) or {})["version"] or ""  # type: ignore[index]  # it matches every *.sql


def _plain_entry(path: Path, downs: dict[str, Path], *, unique: bool) -> Entry:
    match = _PLAIN.fullmatch(path.name)
    version, name = (match["version"], match["name"]) if match else (None, path.stem)
    stem = path.name[: -len(".sql")]
    plain = stem[: -len(".up")] if stem.lower().endswith(".up") else stem
    undo = downs.get(f"{plain}.down.sql".lower())
    return Entry(path, version if version and unique else stem, name if version else "", undo)


def _flyway(found: list[Path], folder: Path, label: str) -> list[Entry]:
    matches = [(path, _FLYWAY.fullmatch(path.name)) for path in found]
    strange = sorted(path.name for path, match in matches if match is None)
    if strange:
        raise ConfigError(
            f"{label}: {', '.join(strange[:3])}: beside files named V1__NAME.sql, all must be named V…__, U…__ or "
            "R__NAME.sql. Callbacks and others need Flyway itself: use command:."
        )
    known = [(path, match) for path, match in matches if match is not None]
    _refuse_twice(known, folder, label)
    undos = {_numbers(match["version"]): path for path, match in known if match["kind"] == "U"}
    versioned = [(_numbers(match["version"]), path, match) for path, match in known if match["kind"] == "V"]
    ordered = sorted(versioned, key=lambda found: found[0])
    last = sorted(((match["name"], path) for path, match in known if match["repeatable"]))
    made = [
        *(Entry(path, _dotted(numbers), match["name"], undos.get(numbers)) for numbers, path, match in ordered),
        *(Entry(path, f"R__{name}", name, None) for name, path in last),
    ]
    _refuse_idle(undos.values(), made, label)
    return made


def _refuse_twice(known: Iterable[tuple[Path, re.Match[str]]], folder: Path, label: str) -> None:
    """ConfigError when nothing tells two files apart, as by Flyway."""
    seen: dict[tuple[str | None, str], Path] = {}
    for path, match in known:
        same = f"name R__{match['name']}" if match["repeatable"] else f"version {_dotted(_numbers(match['version']))}"
        other = seen.setdefault((match["kind"], same), path)
        if other is not path:
            names = " and ".join(sorted(str(one.relative_to(folder)) for one in (other, path)))
            raise ConfigError(
                f"{label}: {names} have the same {same}: there is no order. Rename or remove one of them."
            )


def _numbers(version: str) -> tuple[int, ...]:
    """Flyway's order: 1.0 is 1, and 1_2 is 1.2."""
    numbers = [int(part) for part in re.split(r"[._]", version)]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
