"""The files of steps: their digests, their sizes, and the extra ones named by ``inputs=``."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pytest_lakebranch.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Inputs:
    """The globs of ``inputs=``, relative to ``root``: files whose content is part of a step's fingerprint."""

    label: str
    globs: tuple[str, ...]
    root: Path

    def files(self) -> Iterator[Path]:
        """The files in a fixed order; ConfigError when a glob matches none."""
        for pattern in self.globs:
            found = sorted(glob.glob(pattern, root_dir=self.root, recursive=True))  # noqa: PTH207  (takes absolute globs too)
            files = [path for path in (self.root / name for name in found) if path.is_file()]
            if not files:
                raise ConfigError(f"{self.label}: inputs={pattern} matches no file in {self.root}.")
            yield from files

    def digests(self) -> list[str]:
        """Name and content of every file; the name is relative to ``root``, so that a checkout may move."""
        return [f"{shown(path, self.root)} {digest(path, self.label)}" for path in self.files()]


def digest(path: Path, label: str) -> str:
    """SHA-256 of a file's content, read in pieces; ConfigError naming ``label`` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{label}: {path} cannot be read: {error.strerror}.") from error


def fingerprint(kind: str, parts: Iterable[str]) -> str:
    """One string for all ``parts``, in their order; no other sequence of parts gives the same."""
    return f"{kind}:{hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()}"


def shown(path: Path, root: Path) -> str:
    """A path as messages show it: relative to ``root`` when it lies below."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def size_text(count: int) -> str:
    """A number of bytes for a person: ``812 bytes``, ``599 kB``, ``1.2 MB``."""
    if count < 1000:
        return f"{count} bytes"
    size = count / 1000
    for unit in ("kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.1f} {unit}" if size < 10 and unit != "kB" else f"{size:.0f} {unit}"


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
