"""A machine with 2 GB of memory: what a run needs fits into it, servers, host, workers and tests together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugin.conftest import PLAIN, Project, entries

pytestmark = pytest.mark.soak
MEMORY = 2 << 30
OLD, NEW = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
INSIDE = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
INVENTORY = Path(__file__).parents[2] / "conftest_examples" / "inventory"
BIG = """
create table big (id int primary key, filler text);
insert into big select n, repeat(md5(n::text), 30) from generate_series(1, 500000) n;
"""
SUITE = """
import pytest

def total(conn):
    return conn.execute("select count(*), sum(length(filler)) from big").fetchone()

@pytest.mark.parametrize("number", range(6))
def test_write(lakebranch, number):
    with lakebranch.connect() as conn:
        assert total(conn) == (500000, 480000000)
        conn.execute("update big set filler = 'x' where id % 1000 = 0")
    with lakebranch.connect() as conn:
        assert total(conn) == (500000, 480000000 - 500 * 959)

@pytest.mark.parametrize("number", range(2))
def test_fork(lakebranch, number):
    with lakebranch.fork() as child, child.connect() as conn:
        assert total(conn) == (500000, 480000000)

@pytest.mark.destructive
def test_destroy(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("drop table big")
"""


@dataclass(frozen=True)
class Group:
    """A control group; commands run in it by the words that go before them."""

    path: Path

    @property
    def before(self) -> list[str]:
        """What goes before a command."""
        return ["sh", "-c", INSIDE, str(self.path)]

    def _facts(self, name: str) -> dict[str, int]:
        words = (line.split() for line in (self.path / name).read_text().splitlines())
        return {key: int(value) for key, value in words}

    @property
    def killed(self) -> int:
        """How many processes the system has killed for want of memory."""
        name = "memory.oom_control" if OLD.is_dir() else "memory.events"
        return self._facts(name)["oom_kill"]

    @property
    def used(self) -> int:
        """Bytes that cannot be given up, at this moment: not what is only cached."""
        facts = self._facts("memory.stat")
        return facts["total_rss"] + facts["total_mapped_file"] if OLD.is_dir() else facts["anon"] + facts["shmem"]


@pytest.fixture
def group() -> Iterator[Group]:
    """One with little memory, whatever the machine has."""
    made = (OLD if OLD.is_dir() else NEW) / f"lakebranch-{os.getpid()}"
    try:
        made.mkdir()
        (made / ("memory.limit_in_bytes" if OLD.is_dir() else "memory.max")).write_text(str(MEMORY))
    except OSError as error:
        made.rmdir() if made.is_dir() else None
        pytest.skip(f"needs the right to make control groups: {error}")
    yield Group(made)
    made.rmdir()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory on a disk: one in memory would count as memory."""
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 8 << 30:
        pytest.skip("needs 8 GB of disk")
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(group: Group, directory: Path, *options: str) -> str:
    """Run pytest in the group, and say what it took at most."""
    command = [*group.before, sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", "-n", "2", *options]
    most = 0
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, cwd=directory, stdout=output, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                most = max(most, group.used)
                time.sleep(0.05)
        output.seek(0)
        said = output.read()
    print(f"{directory.name} {' '.join(options)}: at most {most >> 20} MB")
    assert group.killed == 0, said
    return said


def test_the_stock_application(group: Group, home: Path) -> None:
    """The example with 100,000 rows, base building included."""
    said = run(group, INVENTORY)
    assert " passed" in said, said
    assert "failed" not in said, said
    assert entries(home / "runs") == []


@pytest.mark.parametrize("storage", ["auto", "copy"])
def test_a_base_of_half_a_gigabyte(group: Group, home: Path, project: Project, storage: str) -> None:
    """Its branches are read as a whole, written to, forked and destroyed."""
    project.write(schema_dot_sql=BIG, test_it=SUITE)
    project.ini(lakebranch_base="sql:schema.sql")
    said = run(group, project.path, f"--lakebranch-storage={storage}")
    assert "9 passed" in said, said
    assert entries(home / "runs") == []
    shutil.rmtree(home)
