"""What a machine shows of our runs: processes, mounts, files, sockets, segments, locks."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests import scan
from tests.plugin.conftest import entries

ZOMBIE = "zombie"
MARK = "LBFAULT_MARK"
"""A variable in the environment of a run, and so of all that comes of it."""
OWN_SIZE = 256 << 10
"""Bytes that the file in which a server lists its others stays under (dsm_postmaster_startup, dsm.c)."""


@dataclass
class Machine:
    """What this machine shows of the runs of one state directory, but for a bystander's."""

    home: Path
    sockets: Path
    mark: str
    project: Path
    known: list[str] = field(default_factory=list)
    """Parts of names that belong to the bystander."""
    pids: list[int] = field(default_factory=list)
    """Its processes."""

    def _is_known(self, text: str) -> bool:
        return any(word in text for word in self.known)

    def processes(self) -> dict[int, str]:
        """Processes of ours: by a variable, by their words, by where they work; and zombies among their children."""
        present = list(scan.processes())
        found = {process.pid: str(process)[:200] for process in present if self._is_ours(process)}
        zombies = [process for process in present if process.state == "Z" and process.parent in found]
        return found | {process.pid: f"{ZOMBIE} of {process.parent}" for process in zombies}

    def _is_ours(self, process: scan.Process) -> bool:
        words = str(process)
        marked = f"{MARK}={self.mark}".encode() in _environ(process.pid)
        return (marked or str(self.home) in words or str(self.project) in words) and not self._is_known(words)

    def mounts(self) -> list[str]:
        """Mounts in our state directory, in the namespaces of all processes."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/mountinfo"):
            with contextlib.suppress(OSError):
                found |= {line for line in path.read_text().splitlines() if str(self.home) in line}
        return sorted(line for line in found if not self._is_known(line))

    def _paths(self) -> Iterator[Path]:
        """Everything in the state directory, as far as it stays while we look."""
        for folder, names, files in os.walk(self.home):
            names[:] = [name for name in names if not self._is_known(name)]
            yield from (Path(folder, name) for name in (*names, *files))

    def files(self) -> dict[str, str]:
        """All files and directories of the state directory; those of layers with a hash of their content.

        The locks of builders stay: whoever removed one could remove it from under the next builder.
        """
        found = {}
        for path in self._paths():
            name = str(path.relative_to(self.home))
            if name.startswith("layers/") and name.endswith(".lock"):
                continue
            with contextlib.suppress(FileNotFoundError):
                content = path.read_bytes() if name.startswith("layers/") and path.is_file() else b""
                found[name] = hashlib.sha256(content).hexdigest()[:12] if content else ""
        return found

    def segments(self) -> list[str]:
        """System V segments that nobody is attached to: key and id. Other tests of this machine have some in use."""
        words = (line.split() for line in _lines("/proc/sysvipc/shm"))
        return [f"{key} {number}" for key, number, _, _, _, _, attached, *_ in words if attached == "0"]

    def locks(self) -> list[str]:
        """Locks that somebody holds in the state directory."""
        inodes = {}
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError):
                inodes[path.stat().st_ino] = str(path)
        held = []
        for line in _lines("/proc/locks"):
            words = line.split()
            pid, inode = words[-4], words[-3].rpartition(":")[2]
            if (where := inodes.get(int(inode))) and int(pid) not in self.pids:
                held.append(f"{where} by {pid}")
        return held

    def shared_memory(self) -> list[str]:
        """Servers' own files in /dev/shm that no process has mapped; initdb makes some for a moment, which pass.

        Larger ones are mapped only when they are used, and other tests of this machine have some: a server that leaves
        one leaves its own beside it.
        """
        files = [path for path in Path("/dev/shm").glob("PostgreSQL.*") if _size(path) < OWN_SIZE]
        mapped = "".join(map(_maps, Path("/proc").glob("[0-9]*/maps"))) if files else ""
        return [path.name for path in files if path.name not in mapped]

    def present(self) -> Present:
        """All of it."""
        sockets = [name for name in entries(self.sockets) if not self._is_known(name)]
        return Present(
            list(self.processes().values()),
            self.mounts(),
            self.files(),
            sockets,
            self.segments(),
            self.shared_memory(),
            self.locks(),
        )


def _environ(pid: int) -> bytes:
    """Empty where it has ended, or is another user's."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return OWN_SIZE  # it has just gone


def _maps(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def _lines(path: str) -> list[str]:
    """The lines of a table in /proc, without its head."""
    with contextlib.suppress(OSError):
        return [line for line in Path(path).read_text().splitlines() if line.split()[0].rstrip(":") != "key"]
    return []


@dataclass(frozen=True)
class Present:
    """What a machine shows of our runs at one moment."""

    processes: list[str]
    mounts: list[str]
    files: dict[str, str]
    sockets: list[str]
    segments: list[str]
    shared_memory: list[str]
    locks: list[str]

    def more_than(self, before: Present) -> dict[str, object]:
        """What was not there before, or is not as it was; layers may have been added if they are whole."""
        changed = {name for name, content in before.files.items() if self.files.get(name) != content}
        added = {name for name in self.files.keys() - before.files.keys() if not self._is_of_whole_layer(name)}
        found = {
            name: [one for one in getattr(self, name) if one not in getattr(before, name)]
            for name in ("processes", "mounts", "sockets", "segments", "shared_memory", "locks")
        }
        return {name: value for name, value in {**found, "changed": changed, "added": added}.items() if value}

    def _is_of_whole_layer(self, name: str) -> bool:
        parts = name.split("/")
        return parts[0] == "layers" and len(parts) > 1 and f"layers/{parts[1]}/layer.json" in self.files
