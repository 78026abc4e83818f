"""Undoing in place where something dies, is in use, comes back or is damaged (H14 to H17, H22)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
from pathlib import Path

import pytest
from local_rigs import fill, rig, run_sql, small_disk
from rewind_rigs import Branch, answers, end_lease, returning

from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.rewind import buffers
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.state import SOCKET_NAME

pytest_plugins = ["local_fixtures", "rewind_fixtures"]


def test_h14_crash(branch: Branch) -> None:
    """A server process that is killed takes the server with it, and nothing is replayed over what was undone."""
    branch.sql("delete from t0 where id < 100")
    branch.rewound()
    with connect(branch.compute.admin) as session:
        os.kill(session.info.backend_pid, signal.SIGKILL)
        assert branch.replaced().startswith("server died")


def test_h15_clients_that_return(branch: Branch) -> None:
    """Clients that connect again and again, also during the rewind, are not seen by the files."""
    with returning(branch.compute):
        endings = [branch.compute.rewind() for _ in range(15)]
    assert [ending for ending in endings if ending is not None] == []
    branch.rewound()


def test_h17_page_that_stays_in_use(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that cannot be dropped from memory is not passed over."""
    monkeypatch.setattr(buffers, "PATIENCE", 0.05)
    monkeypatch.setattr(buffers, "EVICT", "select 1, 0, pg_current_wal_insert_lsn()::text where ($1 || $2 || $3) <> ''")
    branch.sql("delete from ul", "delete from t0 where id = 1")
    assert branch.replaced() == "a page in memory stayed in use"


def test_h17_open_cursor(branch: Branch) -> None:
    """A cursor that holds a page when its client is ended is no obstacle."""
    session = connect(branch.compute.admin)
    session.execute("declare c cursor for select * from t0")
    session.execute("fetch 10 from c")
    branch.sql("update t0 set a = 'x' where id < 300")
    branch.rewound()
    session.close()


def test_h22_sealed_file_that_is_gone(shared_home: Path, tmp_path: Path) -> None:
    """A layer that was removed while in use does not turn into 'there was no such file'."""
    home = shared_home / "h22"
    with rig(home) as made:
        branch = Branch(made)
        sealed = branch.oracle.sealed
        knowledge = sealed.knowledge
        assert knowledge is not None
        knowledge.files.close()
        branch.sql("delete from t0 where id < 10")
        shutil.move(sealed.data / "base", tmp_path / "base")
        assert branch.replaced() == "a sealed file was removed"
        shutil.move(tmp_path / "base", sealed.data / "base")


def test_h22_sealed_file_that_was_cut(shared_home: Path) -> None:
    """Nor is a damaged one copied."""
    home = shared_home / "h22b"
    with rig(home) as made:
        branch = Branch(made)
        sealed = branch.oracle.sealed
        path = sealed.data / branch.sql("select pg_relation_filepath('t0')")[0][0]
        content = path.read_bytes()
        branch.sql("delete from t0 where id > 2000")
        path.write_bytes(content[:8192])
        assert branch.replaced() == "a sealed file was damaged"
        path.write_bytes(content)


def test_spare_that_was_written_to(branch: Branch) -> None:
    """What a stray client wrote while nobody had the branch is undone before the next lease begins."""
    branch.sql("delete from t0", "create table stray (x int)")
    branch.compute.mark()
    assert answers(branch.compute) == branch.known
    branch.sql("insert into ul (v) values ('stray')")
    branch.compute.mark()
    assert answers(branch.compute) == branch.known
    branch.sql("alter system set work_mem = '1MB'")
    with pytest.raises(BranchError, match="configuration changed"):
        branch.compute.mark()


def test_client_that_waits_to_be_accepted(branch: Branch) -> None:
    """Who connected in time, but was not yet served, does not turn up in the next lease."""
    server = branch.compute.server
    os.kill(server.pid, signal.SIGSTOP)
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(server.sockets / SOCKET_NAME))
        timer = threading.Timer(0.05, os.kill, (server.pid, signal.SIGCONT))
        timer.start()
        branch.compute.end_connections()
        timer.join()
        late.settimeout(5)
        assert late.recv(1) in (b"", b"E")


def test_disk_that_fills_up_while_files_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is back by then is of no use: the branch is replaced, and with room again the next one is whole."""
    evict_all = buffers.evict_all

    def evict_all_and_fill(server: Server) -> buffers.Evicted:
        evicted = evict_all(server)
        fill(disk / "filler")
        return evicted

    disk = tmp_path / "disk"
    with small_disk(disk, "200m"), rig(disk / "home", storage="copy") as made:
        compute = made.start()
        run_sql(compute, "drop table item")
        monkeypatch.setattr(buffers, "evict_all", evict_all_and_fill)
        ending, reason = end_lease(compute)
        assert ending == "replace"
        assert "No space left on device" in reason
        with pytest.raises(BranchError, match="was written to while nobody had it on lease"):
            compute.mark()
        (disk / "filler").unlink()
        compute.discard()
        assert run_sql(made.start("next"), "select count(*) from item where name > ''") == [(2000,)]
