"""Undoing in place where files grew: in silence, beyond a segment, beyond what is in memory (H19, H20, H27)."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from local_rigs import Rig, run_sql
from rewind_rigs import Branch, MakeRig, end_lease, grow
from rewind_work import BROKEN_OFF

from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.compute import LocalCompute
from pytest_lakebranch.providers.local.rewind import files, rewinder

pytest_plugins = ["local_fixtures", "rewind_fixtures"]


def test_h19_files_that_grew_in_silence(branch: Branch) -> None:
    """A COPY that fails leaves pages that the log does not name."""
    with pytest.raises(psycopg.DataError):
        branch.sql("copy br from program 'seq 1 15000 | sed \"s/$/\\t1/\"; echo x'")
    branch.rewound()


def test_h19_pages_of_transactions_that_may_not_write(branch: Branch) -> None:
    """A page is added for a row of a transaction that is refused then: no record of the log names the table."""
    with (
        connect(branch.compute.admin) as first,
        connect(branch.compute.admin) as second,
    ):
        for session, reads, writes in ((first, "t0", "t1"), (second, "t1", "t0")):
            session.execute("set transaction isolation level serializable")
            session.execute(f"select sum(id) from {reads}")
            session.execute(f"update {writes} set a = 'z' where id = 1")
        second.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            first.execute("insert into wide values (0, repeat('v', 5000))")
        first.rollback()
    assert branch.sql("select pg_relation_size('wide') / 8192") == [(6,)]
    branch.rewound()


def test_h20_relations_above_one_segment(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a block leads to its segment, and each segment is put back to its own size."""
    wanted: list[tuple[str, str, int, list[int] | None]] = []
    monkeypatch.setattr(files.Files, "_segment", lambda self, *args: wanted.append(args))
    knowledge = branch.oracle.sealed.knowledge
    assert knowledge is not None
    relation = next(iter(knowledge.manifest.relations))
    monkeypatch.setitem(knowledge.manifest.relations, relation, {"": [1 << 30, 1 << 30, 8192]})
    made = files.Files(-1, knowledge.files, knowledge.manifest)
    made.put_back_blocks(relation, [5, 131072, 131077, 262144, 999999])
    assert [blocks for *_, blocks in wanted] == [[0, 5], [0, 5], [0]]
    assert [name.rpartition(".")[2] for _, name, _, _ in wanted][1:] == ["1", "2"]


HUGE = "huge0000" * 8
ROWS = "select count(*), sum(id), min(pad) from huge"


def huge_base(made: Rig) -> ForkPoint:
    """A table whose first file of 1 GB is a hole but for one row; the others are at the end of the second."""
    with made.provider.building(HUGE):
        compute = made.provider.build("huge", None)
        assert isinstance(compute, LocalCompute)
        run_sql(compute, "create table huge (id int, pad text) with (vacuum_truncate = off)")
        run_sql(compute, "insert into huge values (1, 'first')")
        run_sql(compute, "checkpoint")
        file = compute.data / run_sql(compute, "select pg_relation_filepath('huge')")[0][0]
        os.truncate(file, files.SEGMENT)
        second = file.with_name(f"{file.name}.1")
        second.touch(0o600)
        os.truncate(second, 8 * files.BLOCK)
        run_sql(compute, "insert into huge select g, repeat('x', 3000) from generate_series(2, 9) g")
        return made.provider.seal(compute, HUGE)


@pytest.mark.soak
def test_h20_rows_beyond_one_segment(local_rig: MakeRig) -> None:
    """Rows in both files of a relation are put back, in a third lease as in the first."""
    with local_rig() as made:
        compute = made.start("b", huge_base(made))
        file = compute.data / run_sql(compute, "select pg_relation_filepath('huge')")[0][0]
        pairs = [(path, file.with_name(path.name)) for path in sorted(sealed_files(compute, file))]
        assert [sealed.stat().st_size // files.BLOCK >= 8 for sealed, _ in pairs] == [True, True]
        assert run_sql(compute, "select count(*) from huge where ctid >= '(131072,0)'") == [(8,)]
        for _ in range(3):
            run_sql(compute, "delete from huge where ctid = '(131079,1)'")
            run_sql(compute, "update huge set pad = 'z' where ctid = '(0,1)'")
            run_sql(compute, "insert into huge select 0, repeat('y', 3000) from generate_series(1, 40)")
            assert end_lease(compute)[0] == "rewind"
            compute.mark()
            assert run_sql(compute, ROWS) == [(9, 45, "first")]
            for sealed, there in pairs:
                assert sealed.stat().st_size == there.stat().st_size
            assert pairs[1][0].read_bytes() == pairs[1][1].read_bytes()


def sealed_files(compute: LocalCompute, file: Path) -> list[Path]:
    """The sealed segments of a relation's main fork."""
    assert compute.at is not None
    sealed = compute.at.data / file.relative_to(compute.data)
    return [sealed, sealed.with_name(f"{sealed.name}.1")]


def test_h27_pages_that_were_ordered_and_not_read(branch: Branch) -> None:
    """A scan that fails leaves numbers of pages in memory that nobody can see; a file that is cut may not have any."""
    branch.sql(*BROKEN_OFF.format(m=1).split(";\n", 1), indexes=False)
    assert branch.replaced() == "added pages did not stay in memory"


def test_h27_is_a_hazard(branch: Branch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check the next lease cannot add rows: else the check would cost branches for nothing."""
    monkeypatch.setattr(rewinder, "_check_added", lambda *args: None)
    branch.sql(*BROKEN_OFF.format(m=1).split(";\n", 1), indexes=False)
    assert end_lease(branch.compute)[0] == "rewind"
    branch.compute.mark()
    with pytest.raises(psycopg.errors.InternalError, match="should be empty but is not"):
        grow(branch.compute)


def test_h27_pages_that_stayed(branch: Branch) -> None:
    """What was added and is still in memory is undone, by rows and by structure, in scans that fail too."""
    added = "insert into vt select g, repeat('z', 500) from generate_series(1, 5000) g"
    scans = BROKEN_OFF.format(m=1).split(";\n", 1)[1]
    for more in ("select 1", "create table fresh (id int)"):
        branch.sql(added, scans, more, indexes=False)
        branch.rewound()
