"""The files of steps: their digests, and the extra ones named by ``inputs=``."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.state import PORT
from pytest_lakebranch.steps.notes import Notes


@dataclass(frozen=True, slots=True)
class Application:
    """The application under test, as far as steps run its code: the role and database it connects to, and how it is
    told where they are (the variables of ``lakebranch_env``, for an endpoint). ``port`` is the loopback port of this
    process that they name instead, if it has one; whoever runs a step has led it to where that works.
    """

    user: str = "postgres"
    database: str = "app"
    variables: Callable[[Endpoint], Mapping[str, str]] = field(default=lambda _endpoint: {}, compare=False)
    port: Endpoint | None = field(default=None, compare=False)

    @property
    def names(self) -> frozenset[str]:
        """The variables that lead it to a database: what they say differs from process to process."""
        return frozenset((*self.variables(self.at("")), "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE"))

    def at(self, host: str) -> Endpoint:
        """Where it connects when a server listens in the directory ``host``."""
        return Endpoint(host, PORT, self.user, self.database)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where a step comes from: its root, the globs of ``inputs=`` relative to it (files whose content is part of the
    step's fingerprint, those that Python caches excepted), what is remembered of files, and the application.
    """

    label: str
    globs: tuple[str, ...]
    root: Path
    notes: Notes = field(default_factory=Notes, compare=False)
    application: Application = field(default_factory=Application, compare=False)

    def files(self) -> Iterator[Path]:
        """The files in a fixed order; ConfigError when a glob matches none."""
        for pattern in self.globs:
            found = sorted(glob.glob(pattern, root_dir=self.root, recursive=True))  # noqa: PTH207  (takes absolute globs too)
            paths = (self.root / name for name in found if "__pycache__" not in Path(name).parts)
            files = [path for path in paths if path.is_file()]
            if not files:
                raise ConfigError(f"{self.label}: inputs={pattern} matches no file in {self.root}.")
            yield from files

    def digests(self) -> list[str]:
        """Name and content of every file; the name is relative to ``root``, so that a checkout may move."""
        return [f"{shown(path, self.root)} {self.digest(path)}" for path in self.files()]

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's content; ConfigError when it cannot be read."""
        return self.notes.digest(path, self.label)


def fingerprint(kind: str, parts: Iterable[str]) -> str:
    """One string for all ``parts``, in their order; no other sequence of parts gives the same."""
    return f"{kind}:{hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()}"


def shown(path: Path, root: Path) -> str:
    """A path as messages show it: relative to ``root`` when it lies below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def existing(label: str, written: str, root: Path) -> Path:
    """The file or folder that ``written`` names; ConfigError with the nearest name when there is none."""
    path = root / Path(written).expanduser()
    try:
        if path.is_file() or path.is_dir():
            return path
        raise ConfigError(f"{label}: there is no file or folder {path}.{_near(path)}")
    except OSError as error:
        raise ConfigError(f"{label}: {path} cannot be looked at: {error.strerror}.") from error


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" Its folder {path.parent} does not exist."
    near = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f" Did you mean {near[0]}?" if near else ""
