"""What the tests of faults are made of: points to kill at, runs that are killed, and a bystander."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pytest_lakebranch.ledger import entries as ledger_entries
from pytest_lakebranch.processes import stat_fields
from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import PLAIN, SOON, Project, entries
from tests.plugin.fault_machine import MARK, ZOMBIE, Machine

PHASES = {
    "host starting": 0.5,
    "base being built": 0.8,
    "pool filling": 0.2,
    "lease": 0.05,
    "rewind": 0.02,
    "replace": 0.05,
    "fork": 0.2,
    "end": 0.3,
}
"""The phases of a run's life, and how long after the beginning of each a kill may come, in seconds. The host starts
while pytest collects.
"""
OCCURRENCES = {"lease": 7, "rewind": 4, "replace": 2}
"""How often those phases come in each run that come more than once: any of them may be meant."""
GATE_SECONDS = 0.5
"""How long a gate that is closed is looked for."""
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

ENDINGS = {"test_write": "rewind", "test_replaced": "replace"}

def begins(phase):
    with pathlib.Path(f"begins-{phase}").open("a") as file:
        file.write("yes\\n")

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    if item.originalname in ENDINGS:
        begins(ENDINGS[item.originalname])

@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        begins("end")
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
    storage: Literal["auto", "copy"]

    @property
    def is_in_gate(self) -> bool:
        """Whether to kill while a branch is put back, its server being stopped: every other time in that phase."""
        return self.phase == "rewind" and self.occurrence % 2 == 1

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
        occurrence = chance.randint(1, OCCURRENCES.get(phase, 1))
        storage: Literal["auto", "copy"] = "copy" if (number // len(PHASES) + number) % 2 else "auto"
        return cls(number, phase, occurrence, chance.random() * PHASES[phase], victim, how, storage)

    def __str__(self) -> str:
        nth = f" {self.occurrence}" if self.phase in OCCURRENCES else ""
        when = "in a gate" if self.is_in_gate else f"+ {self.delay * 1000:.0f} ms"
        return f"#{self.number} {self.phase}{nth} {when}: {self.victim} {self.signal.name}, {self.storage}"


@dataclass
class Trial:
    """One run that something is killed in."""

    project: Project
    machine: Machine
    point: Point

    def carry_out(self) -> int:
        """Start the run, kill, and wait until the run is over; how many processes were killed."""
        for mark in self.project.path.glob("begins-*"):
            mark.unlink()
        fresh = self.point.phase == "base being built"
        extra = f"create table extra_{self.point.number} (x int); select pg_sleep(0.3);" if fresh else "select 1;"
        self.project.write(extra_dot_sql=extra, wait_dot_sh="sleep 0.5 & wait" if fresh else "")
        before = set(entries(self.machine.home / "runs"))
        rung = f"--lakebranch-storage={self.point.storage}"
        run = self.project.start("-n", "2", "-q", rung, env={**os.environ, MARK: self.machine.mark})
        try:
            reached = poll(lambda: self._reached(run, before), deadline=Deadline(60), every=0.002)
            killed = self._kill(run) if reached else 0
            run.wait(timeout=100)
        finally:
            run.kill()
            run.wait()
        return killed

    def _reached(self, run: subprocess.Popen[str], before: set[str]) -> bool | None:
        if run.poll() is not None:
            return False
        if self.point.phase in ("rewind", "replace", "end"):
            return True if self._begun() >= self.point.occurrence else None
        names = [name for name in entries(self.machine.home / "runs") if name not in before and name[0] != "."]
        return True if any(self._is_in_phase(self.machine.home / "runs" / name) for name in names) else None

    def _begun(self) -> int:
        """How often the phase has begun, as the project's conftest tells."""
        with contextlib.suppress(FileNotFoundError):
            return len((self.project.path / f"begins-{self.point.phase}").read_text().splitlines())
        return 0

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
        for pid in self._victims_at_a_gate(run) if self.point.is_in_gate else self._victims_after_delay(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.point.signal)
                killed += 1
        return killed

    def _victims_after_delay(self, run: subprocess.Popen[str]) -> list[int]:
        time.sleep(self.point.delay)
        return self._victims(run)

    def _victims_at_a_gate(self, run: subprocess.Popen[str]) -> list[int]:
        """Who is to be killed is asked before, for a gate is open again in no time; it may be that none is closed."""
        servers = [pid for pid, words in self.machine.processes().items() if "/bin/postgres -D" in words]
        victims = self._victims(run)
        poll(lambda: True if any(map(_is_stopped, servers)) else None, deadline=Deadline(GATE_SECONDS), every=0.0001)
        return victims

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


def _is_stopped(pid: int) -> bool:
    return stat_fields(pid)[:1] == ["T"]


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
