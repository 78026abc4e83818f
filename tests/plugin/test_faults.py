"""Something is killed at a point of a run's life: soon after, and at the latest with the next run, nothing is left.

``FAULT_KILLS`` points are tried (default: a few), chosen by ``FAULT_SEED``, from number ``FAULT_FIRST`` on;
each is printed before it is tried, so that it can be tried again alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.waiting import Deadline, poll
from tests.plugin.conftest import PLAIN, SOON, Project
from tests.plugin.fault_machine import MARK, Machine, Present
from tests.plugin.fault_rigs import CONFTEST, NEXT, PHASES, SUITE, VICTIMS, Point, Trial, bystander

KILLS = int(os.environ.get("FAULT_KILLS", "4"))
FIRST = int(os.environ.get("FAULT_FIRST", "0"))
SEED = int(os.environ.get("FAULT_SEED", "3"))
MANY = 20
"""Kills from which each phase has been tried more than once."""
SCHEMA = "create table item (id int); insert into item values (1), (2);"


@pytest.fixture
def shared_home(shared_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of this test's own: all that is in it is compared."""
    home = Path(tempfile.mkdtemp(prefix="lbf", dir=shared_home.parent))
    monkeypatch.setenv("LAKEBRANCH_HOME", str(home))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def machine(project: Project, sockets: Path) -> Machine:
    """This machine, as far as it shows this test's runs."""
    return Machine(project.home, sockets, f"{os.getpid()}-{time.time_ns()}", project.path)


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """A project with a table with two rows and tests of every kind."""
    project.write(schema_dot_sql=SCHEMA, extra_dot_sql="select 1;", wait_dot_sh="", test_it=SUITE, conftest=CONFTEST)
    steps = ["sql:schema.sql", "sql:extra.sql", "command:sh wait.sh inputs=wait.sh"]
    project.ini(lakebranch_base=steps, lakebranch_env="DATABASE_URL")


@pytest.fixture
def next_run(project: Project, machine: Machine, tmp_path: Path) -> NextRun:
    """A run of another project of the same base, which must find nothing of earlier runs; it is run once before."""
    made = NextRun(tmp_path / "next", machine)
    made.directory.mkdir()
    (made.directory / "test_next.py").write_text(NEXT)
    (made.directory / "schema.sql").write_text(SCHEMA)
    (made.directory / "pytest.ini").write_text("[pytest]\nlakebranch_base = sql:schema.sql\n")
    return made


class NextRun:
    """See the fixture."""

    def __init__(self, directory: Path, machine: Machine) -> None:
        self.directory = directory
        self._machine = machine

    def __call__(self, others: int) -> None:
        """Run it while ``others`` other runs live."""
        environ = {**os.environ, MARK: self._machine.mark, "EXPECTED_RUNS": str(1 + others)}
        command = [sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", "-q"]
        done = subprocess.run(
            command, cwd=self.directory, env=environ, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr


def broken_off(said: str) -> list[str]:
    """What pytest says of a defect; none where xdist broke off because a worker was killed before it was there."""
    lines = [line for line in said.splitlines(keepends=True) if line.startswith("INTERNALERROR")]
    return lines if any("pytest_lakebranch" in line for line in lines) else []


def settled(machine: Machine, before: Present) -> dict[str, object]:
    """What differs from ``before`` when all that ends by itself has had time to."""
    found: dict[str, object] = {}

    def look() -> bool | None:
        found.clear()
        found.update(machine.present().more_than(before))
        return None if found else True

    poll(look, deadline=Deadline(10))
    return found


def check_hits(hits: list[tuple[Point, int]]) -> None:
    """A kill that hit nothing proves nothing: most must hit, and some in each phase; of a few at least one."""
    hit = [point.phase for point, killed in hits if killed]
    assert hit, hits
    if len(hits) >= MANY:
        assert {point.phase for point, _ in hits} == set(hit), hits
        assert len(hit) >= 0.7 * len(hits), hits


def table(hits: list[tuple[Point, int]]) -> str:
    """How often what was killed in which phase; in brackets, how often there was nothing to kill any more."""
    cells = [("", *VICTIMS)]
    for phase in PHASES:
        tried = [[killed for point, killed in hits if (point.phase, point.victim) == (phase, one)] for one in VICTIMS]
        cells.append((phase, *(_count(kills) for kills in tried)))
    return "\n".join(f"{row[0]:18}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in cells)


def _count(kills: list[int]) -> str:
    missed = kills.count(0)
    return f"{len(kills) - missed}" + (f" ({missed})" if missed else "")


def test_kills(project: Project, machine: Machine, next_run: NextRun, tmp_path: Path) -> None:
    """Nothing is left after the next run, layers are as they were, and a run beside them is green."""
    failures, hits = [], []
    with bystander(project, tmp_path / "bystander", machine):
        next_run(1)
        project.spawn("-n", "2").assert_outcomes(passed=15)
        before = machine.present()
        assert before.processes == before.sockets == before.mounts == []
        for number in range(FIRST, FIRST + KILLS):
            point = Point.of(number, SEED)
            print(f"FAULT_SEED={SEED} {point}", end=": ", flush=True)
            killed = Trial(project, machine, point).carry_out()
            hits.append((point, killed))
            ended = poll(lambda: None if machine.processes() else True, deadline=Deadline(SOON))
            outlived = {} if ended else machine.processes()
            next_run(1)
            left = settled(machine, before) | ({"outlived": outlived} if outlived else {})
            said = "".join(broken_off(project.output))
            print(f"killed {killed} processes; {'left: ' + str(left) if left else 'nothing left'}{said}", flush=True)
            failures += [(str(point), left, said)] if left or said else []
    print(table(hits))
    assert failures == []
    check_hits(hits)
