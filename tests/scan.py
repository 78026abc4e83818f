"""The processes of this machine, as /proc shows them; needs nothing but the standard library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A process. A zombie has neither words nor a directory; of another user's process no directory is seen."""

    pid: int
    parent: int
    state: str
    words: str
    directory: str

    def __str__(self) -> str:
        return f"{self.words} in {self.directory}"


def processes() -> Iterator[Process]:
    """All processes but this one."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                yield _process(Path(entry.path))


def _process(entry: Path) -> Process:
    state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
    words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ").strip()
    directory = ""
    with suppress(OSError):
        directory = str((entry / "cwd").readlink())
    return Process(int(entry.name), int(parent), state, words, directory)
