"""What the tests of faults are made of: what a machine shows of our runs, points to kill at, and a bystander."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from pytest_lakebranch.ledger import entries as ledger_entries
from pytest_lakebranch.waiting import Deadline, poll
from tests import scan
from tests.plugin.conftest import PLAIN, SOON, Project, entries

ZOMBIE = "zombie"
MARK = "LBFAULT_MARK"
"""A variable in the environment of a run, and so of all that comes of it."""
PHASES = {
    "host starting": 0.3,
    "base being built": 0.8,
    "pool filling": 0.2,
    "lease": 0.05,
    "release": 0.02,
    "fork": 0.2,
    "end": 0.3,
}
"""The phases of a run's life, and how long after the beginning of each a kill may come, in seconds."""
Victim = Literal["worker", "controller", "host", "compute", "everything"]
VICTIMS: tuple[Victim, ...] = ("worker", "controller", "host", "compute", "everything")

SUITE = """
import os, pathlib, time, pytest

def count(conn):
    return conn.execute("select count(*) from item").fetchone()[0]

@pytest.fixture(scope="session")
def filled(lakebranch_worker):
    with lakebranch_worker.connect() as conn:
        conn.execute("insert into item values (3)")

@pytest.mark.parametrize("number", range(3))
def test_read(lakebranch_conn, number):
    assert count(lakebranch_conn) == 2

@pytest.mark.parametrize("number", range(4))
def test_write(lakebranch, number):
    with lakebranch.connect() as conn:
        conn.execute("insert into item select generate_series(10, 400)")
    with lakebranch.connect() as conn:
        assert count(conn) == 393

@pytest.mark.parametrize("number", range(2))
def test_replaced(lakebranch, number):
    with lakebranch.connect(autocommit=True) as conn:
        assert count(conn) == 2
        conn.execute("alter system set work_mem = '1MB'")

@pytest.mark.destructive
def test_destructive(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("drop table item")

@pytest.mark.parametrize("number", range(2))
def test_fork(lakebranch, number):
    with lakebranch.connect() as conn:
        conn.execute("insert into item values (4)")
    with lakebranch.fork() as child, child.connect() as conn:
        assert count(conn) == 3

@pytest.mark.parametrize("number", range(2))
def test_of_worker(filled, lakebranch, number):
    with lakebranch.connect() as conn:
        assert count(conn) == 3
        conn.execute("delete from item")

def test_of_run(lakebranch_run):
    with lakebranch_run.connect() as conn:
        conn.execute("insert into item values (5)")
"""
CONFTEST = """
import pathlib, pytest

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        pathlib.Path("finishing").write_text("yes")
"""
NEXT = """
import os, pathlib

def test_next(lakebranch_conn):
    runs = os.listdir(pathlib.Path(os.environ["LAKEBRANCH_HOME"], "runs"))
    assert len(runs) == int(os.environ["EXPECTED_RUNS"]), runs
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)
"""
BYSTANDER = """
import pathlib, time

def work(branch):
    with branch.connect() as conn:
        assert conn.execute("select sum(x) from bystanding").fetchone() == (6,)
        conn.execute("insert into bystanding values (7)")
    with branch.fork() as child, child.connect() as conn:
        assert conn.execute("select sum(x) from bystanding").fetchone() == (13,)
    branch.reset()

def test_stands_by(lakebranch):
    work(lakebranch)
    pathlib.Path("standing").write_text("yes")
    while not pathlib.Path("stop").exists():
        work(lakebranch)
        time.sleep(0.5)

def test_afterwards(lakebranch):
    work(lakebranch)
"""


@dataclass(frozen=True)
class Point:
    """When and whom to kill, and how; follows from ``number`` and a seed."""

    number: int
    phase: str
    occurrence: int
    delay: float
    victim: Victim
    signal: signal.Signals

    @classmethod
    def of(cls, number: int, seed: int) -> Point:
        """All phases in turn, and within them all victims."""
        chance = random.Random(f"{seed}/{number}")
        phase = list(PHASES)[number % len(PHASES)]
        victim = VICTIMS[(number // len(PHASES) + number) % len(VICTIMS)]
        if (phase, victim) == ("host starting", "compute"):  # there is none yet
            victim = "host"
        polite = victim == "controller" and chance.random() < 0.5
        how = chance.choice([signal.SIGTERM, signal.SIGINT]) if polite else signal.SIGKILL
        return cls(number, phase, chance.randint(1, 7), chance.random() * PHASES[phase], victim, how)

    def __str__(self) -> str:
        nth = f" {self.occurrence}" if self.phase in ("lease", "release") else ""
        return f"#{self.number} {self.phase}{nth} + {self.delay * 1000:.0f} ms: {self.victim} {self.signal.name}"


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
        """Files of PostgreSQL in /dev/shm that no process has mapped; initdb makes some for a moment."""
        names = [path.name for path in Path("/dev/shm").glob("PostgreSQL.*") if _age(path) > 3]
        mapped = "".join(map(_maps, Path("/proc").glob("[0-9]*/maps"))) if names else ""
        return [name for name in names if name not in mapped]

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


def _age(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime
    return 0.0


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


@dataclass
class Trial:
    """One run that something is killed in."""

    project: Project
    machine: Machine
    point: Point

    def carry_out(self) -> int:
        """Start the run, kill, and wait until the run is over; how many processes were killed."""
        (self.project.path / "finishing").unlink(missing_ok=True)
        fresh = self.point.phase == "base being built"
        extra = f"create table extra_{self.point.number} (x int); select pg_sleep(0.2);" if fresh else ""
        self.project.write(extra_dot_sql=extra or "select 1;")
        before = set(entries(self.machine.home / "runs"))
        run = self.project.start("-n", "2", "-q", env={**os.environ, MARK: self.machine.mark})
        try:
            reached = poll(lambda: self._reached(run, before), deadline=Deadline(60), every=0.002)
            time.sleep(self.point.delay)
            killed = self._kill(run) if reached else 0
            run.wait(timeout=100)
        finally:
            run.kill()
            run.wait()
        return killed

    def _reached(self, run: subprocess.Popen[str], before: set[str]) -> bool | None:
        if run.poll() is not None:
            return False
        if self.point.phase == "end":
            return True if (self.project.path / "finishing").exists() else None
        names = [name for name in entries(self.machine.home / "runs") if name not in before and name[0] != "."]
        return True if any(self._is_in_phase(self.machine.home / "runs" / name) for name in names) else None

    def _is_in_phase(self, run: Path) -> bool:
        folder = {"base being built": "building", "pool filling": "branches", "fork": "frozen"}.get(self.point.phase)
        if folder is not None:
            return bool(entries(run / folder))
        if self.point.phase == "host starting":
            return run.is_dir()
        with contextlib.suppress(FileNotFoundError):
            seen = [one for one in ledger_entries(run / "ledger.jsonl") if one["event"] == self.point.phase]
            return len(seen) >= self.point.occurrence
        return False

    def _kill(self, run: subprocess.Popen[str]) -> int:
        killed = 0
        for pid in self._victims(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.point.signal)
                killed += 1
        return killed

    def _victims(self, run: subprocess.Popen[str]) -> list[int]:
        ours = {pid: words for pid, words in self.machine.processes().items() if not words.startswith(ZOMBIE)}
        workers = [child.pid for child in psutil.Process(run.pid).children()] if run.poll() is None else []
        hosts = [pid for pid, words in ours.items() if "-m pytest_lakebranch.host" in words]
        computes = [pid for pid, words in ours.items() if "/bin/postgres -D" in words or words.startswith("postgres")]
        chance = random.Random(str(self.point))
        of: dict[str, Callable[[], list[int]]] = {
            "worker": lambda: [chance.choice(workers)] if workers else [],
            "controller": lambda: [run.pid] if run.poll() is None else [],
            "host": lambda: hosts,
            "compute": lambda: [chance.choice(sorted(computes))] if computes else [],
            "everything": lambda: list(ours),
        }
        return of[self.point.victim]()


@contextmanager
def bystander(project: Project, directory: Path, machine: Machine) -> Iterator[None]:
    """A run of another project in the same state directory, until the block ends; it must be green."""
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\nlakebranch_base = sql:schema.sql\n")
    (directory / "schema.sql").write_text(
        "create table bystanding (x int); insert into bystanding values (1), (2), (3);"
    )
    (directory / "test_it.py").write_text(textwrap.dedent(BYSTANDER))
    command = [sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", "-q"]
    with (directory / "output").open("w") as output:
        run = subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT)
    try:
        standing = poll(lambda: True if (directory / "standing").exists() else None, deadline=Deadline(60))
        assert standing, (directory / "output").read_text()
        (name,) = entries(project.home / "runs")
        machine.pids += [pid for pid, words in machine.processes().items() if name in words or str(directory) in words]
        machine.known += [name, f"r{name[:12]}", str(directory)]
        yield
    finally:
        (directory / "stop").write_text("")
        run.wait(timeout=SOON)
    assert run.returncode == 0, (directory / "output").read_text()
