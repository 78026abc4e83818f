"""What could carry something of a test to the next one past the files: processes, origins, clients nobody knows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from local_rigs import Rig, rig, run_sql
from rewind_rigs import end_lease

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.postgres import binaries
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local import clients
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.waiting import Deadline, poll

BASE = """
create table item (id int primary key);
insert into item select generate_series(1, 100);
select pg_replication_origin_create('upstream');
"""
LAUNCH = "create function launch(int) returns bool language c strict as '{library}'"
KEY = "strange0" * 8
SEEN = "select pid from pg_stat_activity where backend_type = 'write_later' and datname = 'app'"
ORIGIN = "select pg_replication_origin_session_setup('upstream')"


def branch(made: Rig):
    """A branch of a base with an origin, and with an extension that can start a process."""
    return made.start("b", made.base(BASE, key=KEY))


@pytest.fixture(scope="session")
def library(shared_home: Path) -> Path:
    """A library with a process of its own, where servers can reach it."""
    headers = Path(binaries.find("auto").directory).parent / "include" / "server"
    compiler = shutil.which("cc")
    if compiler is None or not (headers / "postgres.h").exists():
        pytest.skip("needs a C compiler, and the headers of PostgreSQL")
    made = shared_home / "background_worker.so"
    source = Path(__file__).with_name("background_worker.c")
    flags = ["-shared", "-fPIC", "-w", f"-I{headers}", f'-DLIBRARY="{made}"']
    subprocess.run([compiler, *flags, "-o", made, source], check=True)
    return made


def test_nobody_waits_for_a_background_process(
    shared_home: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that serves no client is not ended with the clients, so that its end is not waited for."""
    awaited: list[set[int]] = []
    monkeypatch.setattr(clients, "await_end", _noting(awaited, clients.await_end))
    with rig(shared_home) as made:
        compute = made.start("b", made.base(BASE + LAUNCH.format(library=library), key="worker00" * 8))
        with connect(compute.endpoint, autocommit=True) as session:
            session.execute("select launch(3600000)")
            assert poll(lambda: compute.server.query(SEEN) or None, deadline=Deadline(10))
            process = compute.server.query(SEEN)[0][0]
            assert compute.end_connections() == 1
        assert process in awaited[0]  # until it is known what it is
        assert process not in set().union(*awaited[1:])
        assert is_running(process)
        compute.discard()


def _noting(awaited: list[set[int]], then: Callable[[dict[int, int], float], None]):
    """As ``then``, but that who is waited for is noted."""

    def await_end(handles: dict[int, int], seconds: float) -> None:
        awaited.append(set(handles))
        then(handles, seconds)

    return await_end


@pytest.mark.parametrize("write", [False, True])
def test_background_process_of_an_extension(shared_home: Path, library: Path, write: bool) -> None:
    """A process that a test had an extension start goes with its branch: it may write when the test is long over."""
    with rig(shared_home) as made:
        compute = made.start("b", made.base(BASE + LAUNCH.format(library=library), key="worker00" * 8))
        assert run_sql(compute, "select launch(3600000)") == [(True,)]
        assert poll(lambda: compute.server.query(SEEN) or None, deadline=Deadline(10))
        if write:
            run_sql(compute, "delete from item")
        assert end_lease(compute) == ("replace", "an extension's background process is running")
        compute.discard()


def test_progress_of_replication_origins(shared_home: Path) -> None:
    """It lies in shared memory, where nothing would put it back: no test can make any."""
    with rig(shared_home) as made:
        compute = branch(made)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            compute.server.query(ORIGIN)
        compute.discard()


def test_progress_of_replication_origins_when_asked_for(shared_home: Path) -> None:
    """Who wants them has branches that are never rewound."""
    with rig(shared_home, settings=("max_active_replication_origins=5",)) as made:
        compute = branch(made)
        compute.server.query(ORIGIN)
        run_sql(compute, "insert into item values (0)")
        assert end_lease(compute) == ("replace", "max_active_replication_origins=5 cannot be rewound")
        compute.discard()


def test_client_that_came_between_two_leases(shared_home: Path) -> None:
    """Where nothing can be put back, what somebody wrote while nobody had the branch is no part of the next lease."""
    with rig(shared_home, settings=("wal_log_hints=off",)) as made:
        compute = branch(made)
        assert run_sql(compute, "select count(*) from item") == [(100,)]
        assert end_lease(compute) == ("clean", "")
        compute.mark()
        assert end_lease(compute) == ("clean", "")
        run_sql(compute, "insert into item values (0)")
        with pytest.raises(BranchError, match="written to while nobody had it on lease: wrote"):
            compute.mark()
        compute.discard()
