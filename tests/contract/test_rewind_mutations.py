"""Would the proof notice? Each hazard's answer is taken out in turn, and the random leases must find it.

The faults are planted here, into the code under test; the product has no switch for them. Slow: run by ``make soak``.
Not here: H20 (no base here has a table above 1 GB) and H22 (the layer is shared by all leases); see
test_rewind_hazards_noticed.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from local_rigs import Rig, rig
from rewind_rigs import Oracle, answers, end_lease, grow, returning, rewind_base
from rewind_work import DDL, DML, ELSEWHERE, RUINOUS, Deed, Work, do
from test_rewind_random import is_allowed

from pytest_lakebranch.errors import BranchError, LakebranchError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local import compute, server_settings
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.rewind import buffers, files, gate, knowledge, requirements, rewinder, wal
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.waiting import Deadline, poll

pytestmark = [
    pytest.mark.skipif("SOAK_LEASES" not in os.environ, reason="long: make soak"),
    pytest.mark.filterwarnings("ignore"),
]
BUDGET = 400
SETTINGS = {
    "h7": ("max_prepared_transactions=5",),
    "h13": ("wal_keep_size=0", "max_wal_size=2MB", "min_wal_size=2MB"),
}
"""Settings of the user's with which a fault can show."""
TROUBLES = {"h14": "crash", "h15": "return"}
"""What befalls some leases, without which a fault cannot show: a server process that is killed, clients that return."""
Patch = pytest.MonkeyPatch


def forget_blocks(patch: Patch, keep: Callable[[tuple[int, int], list[int]], list[int]]) -> None:
    """Read the log, and leave out some of the blocks it names."""
    read = wal.read

    def read_less(*args: Any) -> wal.Touched:
        touched = read(*args)
        return replace(touched, blocks={rel: keep(rel, blocks) for rel, blocks in touched.blocks.items()})

    patch.setattr(wal, "read", read_less)


def without_fork(patch: Patch, *forks: str) -> None:
    """Never put these forks back."""
    put_back = files.Files.put_back_fork
    patch.setattr(
        files.Files, "put_back_fork", lambda self, rel, fork: None if fork in forks else put_back(self, rel, fork)
    )


def h1(patch: Patch) -> None:
    """Blocks that only hints touched are left out."""
    patch.setattr(
        wal, "READ", wal.READ.replace("false) group by", "false) where record_type <> 'FPI_FOR_HINT' group by")
    )


def h2(patch: Patch) -> None:
    """Block 0 is put back only when it is named."""
    runs = files._runs

    def but_zero(blocks: list[int], size: int) -> Iterator[tuple[int, int]]:
        return runs(blocks[1:] if blocks[:1] == [0] else blocks, size)

    patch.setattr(files, "_runs", but_zero)


def h3(patch: Patch) -> None:
    """Unlogged relations are forgotten."""
    learn = knowledge.learn
    patch.setattr(compute, "learn", lambda *args: replace(learn(*args), unlogged=()))


def h4(patch: Patch) -> None:
    """Init forks are not put back."""
    segment = files.Files._segment
    patch.setattr(
        files.Files, "_segment", lambda self, folder, name, *rest: "_init" in name or segment(self, folder, name, *rest)
    )


def h5(patch: Patch) -> None:
    """The maps of catalogs stay."""
    segment = files.Files._segment
    patch.setattr(
        files.Files,
        "_segment",
        lambda self, folder, name, *rest: name == files.MAPS or segment(self, folder, name, *rest),
    )


def h6(patch: Patch) -> None:
    """Catalogs are told by their file's number."""
    learn = knowledge._catalogs
    patch.setattr(
        knowledge, "_catalogs", lambda *args: frozenset(n for n in learn(*args) if n < knowledge.FIRST_USER_OID)
    )


def h7(patch: Patch) -> None:
    """Prepared transactions are not asked for."""
    patch.setattr(wal, "READ", wal.READ.replace("(select count(*) from pg_prepared_xact())", "0"))
    patch.setattr(compute, "STATE", compute.STATE.replace("(select count(*) from pg_prepared_xact())", "0"))


def h12(patch: Patch) -> None:
    """Nobody sees that a database of the base is gone."""
    remove = files.Files._remove_databases

    def remove_and_say_nothing(self: files.Files) -> None:
        with suppress(UnprovenError):
            remove(self)

    patch.setattr(wal, "_check_dropped", lambda *args: None)
    patch.setattr(files.Files, "_remove_databases", remove_and_say_nothing)


def h13(patch: Patch) -> None:
    """A log that cannot be read counts as one in which nothing happened."""
    read = wal.read

    def read_or_nothing(*args: Any) -> wal.Touched:
        try:
            return read(*args)
        except UnprovenError as error:
            if "could not be read" not in str(error):
                raise
            return wal.Touched({}, whole=False, files=False, aborted=False)

    patch.setattr(wal, "read", read_or_nothing)


def h8(patch: Patch) -> None:
    """What moved the log without a transaction counts as nothing."""
    forget_blocks(patch, lambda rel, blocks: blocks)
    patch.setattr(
        wal, "READ", wal.READ.replace("false) group by", "false) where record_type !~ 'VISIBLE|INPLACE|PRUNE' group by")
    )


def h9(patch: Patch) -> None:
    """The configuration is not looked at."""
    patch.setattr(LocalCompute, "_configuration", lambda self: ())


def h10(patch: Patch) -> None:
    """Cut files count as ordinary ones."""
    read = wal.read
    patch.setattr(wal, "read", lambda *args: replace(read(*args), whole=False))


def h11(patch: Patch) -> None:
    """Databases that were made stay."""
    patch.setattr(files.Files, "_remove_databases", lambda self: None)


def h14(patch: Patch) -> None:
    """A server that has crashed starts anew, and so does our connection to it; its log's word for it counts nothing."""
    end_connections = LocalCompute.end_connections

    def connect_again(server: Server) -> bool | None:
        server.close_connection()
        try:
            server.open_control()
        except BranchError:
            return None
        return True

    def end_anew(self: LocalCompute) -> int:
        try:
            self.server.query("select 1")
        except psycopg.Error:
            poll(lambda: connect_again(self.server), deadline=Deadline(10))
        return end_connections(self)

    patch.setitem(server_settings.ALWAYS, "restart_after_crash", "on")
    patch.setitem(requirements.REQUIRED, "restart_after_crash", ("on",))
    patch.setattr(wal, "XLOG", wal.XLOG | {"CHECKPOINT_SHUTDOWN", "END_OF_RECOVERY", "PARAMETER_CHANGE"})
    patch.setattr(LocalCompute, "end_connections", end_anew)


def h15(patch: Patch) -> None:
    """Clients are ended, and the postmaster goes on starting others."""
    patch.setattr(gate, "_stop", lambda pid: None)


def h17(patch: Patch) -> None:
    """What is in memory stays there."""
    patch.setattr(buffers, "EVICT", "select 0, 1000000, pg_current_wal_insert_lsn()::text where ($1 || $2 || $3) <> ''")


def h19(patch: Patch) -> None:
    """Files keep what they grew by."""
    patch.setattr(files.os, "ftruncate", lambda *args: None)


def h21(patch: Patch) -> None:
    """Visibility maps are not put back."""
    without_fork(patch, "_vm")


def h27(patch: Patch) -> None:
    """Nobody asks whether added pages stayed in memory."""
    patch.setattr(rewinder, "_check_added", lambda *args: None)


def free_space(patch: Patch) -> None:
    """Free space maps are not put back."""
    without_fork(patch, "_fsm")


def last_block(patch: Patch) -> None:
    """The last block that a relation's records name is forgotten."""
    forget_blocks(patch, lambda rel, blocks: blocks[:-1])


def checkpoint(patch: Patch) -> None:
    """Structure is put back without the catalog's caches being dropped from disk."""
    patch.setattr(files.Files, "_put_back_cache", lambda *args: None)


CATALOG_FILES = "select pg_relation_filenode(oid)::int8 from pg_class where oid < 16384 and relkind in ('r', 'i', 't')"
WRITTEN = """
with flushed as materialized (select pg_logical_emit_message(false, 'look', '', true) as lsn)
select relfilenode::int8 from flushed, pg_get_wal_block_info(%s, flushed.lsn, false) where reldatabase > 0"""


@dataclass
class Hunt:
    """Random leases until one is noticed."""

    made: Rig
    chance: random.Random
    trouble: str | None = None
    known: list[str] = field(default_factory=list)
    catalogs: frozenset[int] = frozenset()

    def find(self) -> tuple[int, str] | None:
        """How many leases it took, and what was noticed; None when the budget did not do."""
        self.known = self._known()
        compute = self._fresh()
        oracle = Oracle(compute)
        for number in range(1, BUDGET + 1):
            noticed, spent = self._lease(compute, oracle)
            if noticed:
                return number, noticed
            if spent:
                compute.discard(disposable=True)
                compute = self._fresh()
                oracle = Oracle(compute)
        return None

    def _known(self) -> list[str]:
        compute = self._fresh()
        try:
            with connect(compute.admin) as session:
                self.catalogs = frozenset(row[0] for row in session.execute(CATALOG_FILES))
            return answers(compute)
        finally:
            compute.discard(disposable=True)

    def _fresh(self) -> LocalCompute:
        return self.made.start("b", rewind_base(self.made))

    def _lease(self, compute: LocalCompute, oracle: Oracle) -> tuple[str, bool]:
        """What was noticed in one lease and after it, and whether another branch is needed."""
        ending = "none"
        try:
            ending, reason = do(compute, work := self._work(), self._end)
            if ending != "replace":
                ending, reason = self._grow(compute) or (ending, reason)
            if ending == "replace":
                allowed = is_allowed(reason, work) or "could not be read" in reason
                return "" if allowed else f"reason: {reason}", True
            noticed = self._look(compute, oracle)
            if not noticed:
                compute.mark()
        except AssertionError as error:
            return f"damage: {error}", True
        except (LakebranchError, psycopg.Error) as error:
            return "" if ending == "replace" else f"error: {error}", True
        return noticed, False

    def _end(self, compute: LocalCompute) -> tuple[str, str]:
        """As end_lease; what a connection of ours remembers of a catalog that was changed must be gone."""
        if self.trouble:
            ending, reason = end_lease(compute)
            crowd = self.trouble == "return" and ending != "replace" and self.chance.random() < 0.1
            return self._end_in_a_crowd(compute) if crowd else (ending, reason)
        remembering, seen = compute.server.control.info.backend_pid, self._writes_catalogs(compute)
        ending, reason = end_lease(compute)
        kept = ending == "rewind" and compute.is_settled and compute.server.control.info.backend_pid == remembering
        assert not (kept and seen), "a catalog that is no more is remembered"
        return ending, reason

    def _writes_catalogs(self, compute: LocalCompute) -> bool:
        assert compute._home is not None
        home = wal.spelled(compute._home.position)
        with connect(compute.server.endpoint("postgres"), autocommit=True) as session:
            (moved,) = session.execute("select pg_current_wal_insert_lsn() > %s", (home,)).fetchone() or (False,)
            rows = session.execute(WRITTEN, (home,)).fetchall() if moved else []
        return not self.catalogs.isdisjoint(row[0] for row in rows)

    def _end_in_a_crowd(self, compute: LocalCompute) -> tuple[str, str]:
        """End leases while clients return all the time, and write; and one more when they do not any more."""
        with returning(compute):
            for _ in range(5):
                compute.settle()
                assert (refused := compute.rewind()) is None, refused
        compute.settle()
        return end_lease(compute)

    def _look(self, compute: LocalCompute, oracle: Oracle) -> str:
        if answers(compute) != self.known:
            return "answers"
        return f"files: {found[:3]}" if (found := oracle.differences()) else ""

    def _grow(self, compute: LocalCompute) -> tuple[str, str] | None:
        """Every third time another lease without a look, which would hide what is in memory only; how it ended."""
        if self.chance.random() > 1 / 3:
            return None
        compute.mark()
        grow(compute)
        return end_lease(compute)

    def _work(self) -> Work:
        kinds = self.chance.choice([[DML], [DML, DML, DDL], [DDL, ELSEWHERE, DML, DDL, DDL, RUINOUS]])
        deeds = tuple(self._deed(self.chance.choice(kinds)) for _ in range(self.chance.randrange(1, 7)))
        return Work(deeds, crash=self.trouble == "crash" and self.chance.random() < 0.2)

    def _deed(self, kind: tuple[str, ...]) -> Deed:
        chance = self.chance
        numbers = {"k": chance.randrange(8), "n": chance.randrange(1, 10**6), "m": chance.randrange(1, 1500)}
        return Deed(
            chance.randrange(3), chance.choice(kind).format(**numbers), chance.choice(["", "commit", "rollback"])
        )


@contextmanager
def private_rig(home: Path, settings: tuple[str, ...] = ()) -> Iterator[Rig]:
    """A provider with a state directory of its own: a fault may ruin what is shared, and leave what it should not."""
    stack = ExitStack()
    try:
        yield stack.enter_context(rig(home, check=False, **({"settings": settings} if settings else {})))
    finally:
        with suppress(AssertionError):
            stack.close()
        shutil.rmtree(home, ignore_errors=True)


HAZARDS = (h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15, h17, h19, h21, h27)
FAULTS = (*HAZARDS, free_space, last_block, checkpoint)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_fault_is_found(fault: Callable[[Patch], None], shared_home: Path, monkeypatch: Patch) -> None:
    """Within the budget of leases."""
    name = fault.__name__
    with private_rig(shared_home / f"mutation-{name}", SETTINGS.get(name, ())) as made:
        rewind_base(made)
        fault(monkeypatch)
        found = Hunt(made, random.Random(1), TROUBLES.get(name)).find()
    print(f"\n{name:12} {fault.__doc__:70} found: {found}")
    assert found is not None


@pytest.mark.parametrize("name", ["h1", "h7", "h13", "h14", "h15"])
def test_without_a_fault_nothing_is_found(name: str, shared_home: Path) -> None:
    """Else a find would say nothing: the same leases, with the same settings and troubles."""
    with private_rig(shared_home / f"sound-{name}", SETTINGS.get(name, ())) as made:
        rewind_base(made)
        assert Hunt(made, random.Random(1), TROUBLES.get(name)).find() is None
