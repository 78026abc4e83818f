"""Deaths while a branch is put back: whatever dies, the branch is given to nobody."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from local_rigs import Rig, rig, run_sql
from rewind_rigs import Oracle, end_lease

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.providers.local.rewind.files import Files
from pytest_lakebranch.waiting import Deadline, poll

ITEMS = "create table item (id int primary key); insert into item select generate_series(1, 100)"
KEY = "deaths00" * 8
OTHERS = "select pid from pg_stat_activity where backend_type = %s"
ALL_SESSIONS = "select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid()"


def branch(made: Rig) -> LocalCompute:
    """A branch of a small base."""
    return made.start("b", made.base(ITEMS, key=KEY))


def victims(compute: LocalCompute) -> dict[str, int]:
    """Processes of a server by what they are."""
    checkpointer = compute.server.query(OTHERS, "checkpointer")[0][0]
    session = compute.server.control.info.backend_pid
    return {"postmaster": compute.server.pid, "our session": session, "checkpointer": checkpointer}


ROW, TABLE = "insert into item values (0)", "create table more (x int)"


@pytest.mark.parametrize(
    ("victim", "work"),  # our session is over by itself before the files of a changed structure are put back
    [("postmaster", ROW), ("our session", ROW), ("checkpointer", ROW), ("postmaster", TABLE), ("checkpointer", TABLE)],
)
def test_killed_while_files_are_put_back(
    shared_home: Path, monkeypatch: pytest.MonkeyPatch, victim: str, work: str
) -> None:
    """A server that loses a process in the middle of it is replaced, although everything else went well."""
    with rig(shared_home) as made:
        compute = branch(made)
        pid = victims(compute)[victim]
        run_sql(compute, work)
        monkeypatch.setattr(Files, "put_back_blocks", _killing(pid, Files.put_back_blocks))
        ending, reason = end_lease(compute)
        assert (ending, reason[:11]) == ("replace", "server died"), reason
        compute.discard()


def _killing(pid: int, then: Callable[..., None]) -> Callable[..., None]:
    """As ``then``, but that a process dies before."""

    def put_back(files: Files, *args: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # the second time
            os.kill(pid, signal.SIGKILL)
        assert poll(lambda: None if is_running(pid) else True, deadline=Deadline(5))
        then(files, *args)

    return put_back


@pytest.mark.parametrize("victim", ["postmaster", "our session", "checkpointer"])
def test_killed_between_two_leases(shared_home: Path, victim: str) -> None:
    """Nor is one handed out that lost a process when nobody had it."""
    with rig(shared_home) as made:
        compute = branch(made)
        pid = victims(compute)[victim]
        assert end_lease(compute)[0] == "clean"
        os.kill(pid, signal.SIGKILL)
        assert poll(lambda: None if is_running(pid) else True, deadline=Deadline(5))
        with pytest.raises(BranchError, match="died"):
            compute.mark()
        compute.discard()


def end_all_sessions(compute: LocalCompute, work: str | None = None) -> None:
    """End them, ours too, and wait until no process serves one: nothing but the next question tells us."""
    with connect(compute.server.endpoint("app"), autocommit=True) as session:
        processes = [compute.server.control.info.backend_pid, session.info.backend_pid]
        if work:
            session.execute(work)
        session.execute(ALL_SESSIONS)
    assert poll(lambda: None if any(map(is_running, processes)) else True, deadline=Deadline(5))


@pytest.mark.parametrize("work", [None, "delete from item", "drop table item"])
def test_all_sessions_ended_by_a_test(shared_home: Path, work: str | None) -> None:
    """A test may end every session of its server: ours is opened anew, and nobody is said to have died."""
    with rig(shared_home) as made:
        compute = branch(made)
        oracle = Oracle(compute)
        end_all_sessions(compute, work)
        assert end_lease(compute)[0] == ("rewind" if work else "clean")
        compute.mark()
        assert run_sql(compute, "select count(*) from item") == [(100,)]
        assert oracle.differences() == []
        compute.discard()


def test_forked_after_all_sessions_were_ended(shared_home: Path) -> None:
    """Such a branch is forked in its present state, and can be put back afterwards."""
    with rig(shared_home) as made:
        compute = branch(made)
        end_all_sessions(compute, "delete from item where id > 7")
        child = made.start("c", compute.fork_point())
        assert run_sql(child, "select count(*) from item") == [(7,)]
        end_all_sessions(compute)
        assert end_lease(compute)[0] == "rewind"
        assert run_sql(compute, "select count(*) from item") == [(100,)]
        child.discard()
        compute.discard()


@pytest.mark.parametrize("then", ["fork", "end"])
def test_our_session_killed_by_a_test(shared_home: Path, then: str) -> None:
    """A session that was killed takes its server with it: that is said, and no other session hides it."""
    with rig(shared_home) as made:
        compute = branch(made)
        run_sql(compute, ROW)
        os.kill(victims(compute)["our session"], signal.SIGKILL)
        if then == "fork":
            with pytest.raises(BranchError, match=r"cannot be forked: its server died"):
                compute.fork_point()
        ending, reason = end_lease(compute)
        assert (ending, reason[:11]) == ("replace", "server died"), reason
        compute.discard()


def test_sealed_file_that_was_changed_in_place(tmp_path_factory: pytest.TempPathFactory, shared_home: Path) -> None:
    """A layer that somebody wrote into is copied from no more, nor is a spare lent that was made of it before; it is
    forgotten: the next run builds it anew.
    """
    home = shared_home / "changed"
    with rig(home) as made:
        compute, spare = branch(made), made.start("spare", made.base(key=KEY))
        assert compute.at is not None
        sealed = compute.at.data / run_sql(compute, "select pg_relation_filepath('item')")[0][0]
        with sealed.open("r+b") as file:
            file.write(b"\0" * 8192)
        run_sql(compute, "insert into item values (0)")
        assert end_lease(compute) == ("replace", "a sealed file was damaged")
        compute.discard()
        with pytest.raises(BranchError, match=r"spare stands on files that are not what was sealed: .* damaged"):
            spare.mark()
        spare.discard()
        with pytest.raises(Exception, match="a sealed file was damaged while this run used it"):
            made.start("c", made.base(key=KEY))
    with rig(home) as made:
        assert made.provider.cached(KEY) is None
