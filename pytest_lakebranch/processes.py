"""Who a process is, beyond its number: pids are reused, and mean nothing in another container."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LINUX = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one boot of one machine, seen from one pid namespace."""

    pid: int
    started: str
    boot: str
    namespace: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of the process that has ``pid`` now."""
        return cls(pid, _start_time(pid), boot_id(), _pid_namespace())

    @property
    def is_visible(self) -> bool:
        """Whether this process could tell if that one lives (same boot and pid namespace)."""
        return self.boot == boot_id() and self.namespace == _pid_namespace()

    @property
    def is_gone(self) -> bool:
        """True only where it is certain: another boot, or the pid is free or belongs to a later process.

        A process of another pid namespace on the same boot is never called gone: it cannot be seen.
        """
        if self.boot != boot_id():
            return True
        return self.is_visible and _start_time(self.pid) != self.started

    @property
    def token(self) -> str:
        """A short word for it, for the names of what it is about to make."""
        return f"{self.pid}-{_short(self.boot, self.namespace)}-{_short(self.started)}"


def maker_is_gone(token: str) -> bool:
    """Whether the process with this :attr:`Identity.token` could be seen from here and has ended."""
    pid, _, rest = token.partition("-")
    seen = Identity.of(int(pid)) if pid.isdigit() else None
    return seen is not None and rest != seen.token.partition("-")[2] and rest[:8] == _short(seen.boot, seen.namespace)


def _short(*words: str) -> str:
    return f"{zlib.crc32(' '.join(words).encode()):08x}"


@functools.cache
def has_pidfd() -> bool:
    """Whether processes can be held by a descriptor: some sandboxes forbid what the kernel can."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


@functools.cache
def boot_id() -> str:
    """A string that changes when the machine restarts."""
    if LINUX:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _output("sysctl", "-n", "kern.boottime")


@functools.cache
def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink()) if LINUX else ""


def _start_time(pid: int) -> str:
    """When the process started, in the system's own words; empty when there is none or it is a zombie."""
    if not LINUX:
        return _output("ps", "-o", "lstart=", "-p", str(pid))
    fields = stat_fields(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state letter on (proc(5)); empty when there is no such process."""
    try:
        return read_proc(f"/proc/{pid}/stat", whole=False).decode(errors="replace").rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def read_proc(path: str, *, whole: bool = True) -> bytes:
    """All of a file of /proc, for what is read on every lease: a file object costs as much as the reading.

    Without ``whole``, what comes at once: at least a line (seq_read_iter, seq_file.c).
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        parts = [os.read(handle, 1 << 16)]
        while parts[-1] and whole:
            parts.append(os.read(handle, 1 << 16))
    finally:
        os.close(handle)
    return b"".join(parts)


def children(pid: int) -> set[int]:
    """The living child processes of ``pid`` (Linux: those of all its threads)."""
    if not LINUX:
        return {int(word) for word in _output("pgrep", "-P", str(pid)).split()}
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return set()
    pids = (int(word) for word in " ".join(lists).split())
    return {child for child in pids if (fields := stat_fields(child)) and fields[0] not in "ZX"}


def servers_in(directory: Path) -> Iterator[int]:
    """The processes of PostgreSQL servers that work in ``directory`` or below, also those whose postmaster is dead, and
    in mount namespaces of their own. None where there is no /proc.
    """
    directory = directory.resolve()
    for entry in os.scandir("/proc") if LINUX else ():
        if entry.name.isdigit() and _is_server_in(int(entry.name), directory):
            yield int(entry.name)


def is_server_in(pid: int, directory: Path) -> bool:
    """Whether this is such a process: a person's shell that happens to be there is none."""
    return _is_server_in(pid, directory.resolve())


def _is_server_in(pid: int, directory: Path) -> bool:
    try:
        inside = Path(f"/proc/{pid}/cwd").readlink().is_relative_to(directory)
        return inside and Path(f"/proc/{pid}/comm").read_text().startswith("postgres")
    except OSError:  # it has ended, or belongs to another user
        return False


def kill_if(pid: int, still: Callable[[int], bool]) -> None:
    """Kill the process that has ``pid`` now, unless ``still`` says that it is none of those that were found."""
    handle = os.pidfd_open(pid) if has_pidfd() else None
    try:
        if not still(pid):
            return
        if handle is None:
            os.kill(pid, signal.SIGKILL)
        else:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        if handle is not None:
            os.close(handle)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def environment_without_pg() -> dict[str, str]:
    """This process's environment without any ``PG*`` variable.

    libpq reads some twenty of them (PGHOSTADDR, PGSERVICE, PGOPTIONS, …); none may lead a program of ours elsewhere.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def import_ahead(module: str) -> None:
    """Import in a thread what will be needed soon, while this process waits for another."""
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()
