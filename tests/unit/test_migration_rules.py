"""How long locks were held, and what lint says, from what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.migrations import data, rules, squawk
from pytest_lakebranch.migrations.data import Print
from pytest_lakebranch.migrations.holds import Key, Sample, Sighting, longest
from pytest_lakebranch.migrations.observation import IndexMade, Lock, Observation, RequiredColumn, Rewrite
from pytest_lakebranch.schema.diff import SchemaDiff

KEY = Key(7, 16400, "AccessExclusiveLock")
NOTHING = SchemaDiff("before", "after", ())


@pytest.mark.parametrize(
    ("samples", "sightings", "held"),
    [
        ([Sample(1.0, frozenset({KEY})), Sample(1.5, frozenset())], [], 0.5),
        ([Sample(1.0, frozenset({KEY}))], [], 9.0),
        ([], [Sighting(2.0, 2.003, KEY)], 0.003),
        ([Sample(2.004, frozenset({KEY})), Sample(2.5, frozenset())], [Sighting(2.0, 2.003, KEY)], 0.5),
        ([Sample(3.0, frozenset({KEY})), Sample(3.1, frozenset())], [Sighting(2.0, 2.5, KEY)], 0.5),
        ([Sample(0.0, frozenset({KEY})), Sample(1.0, frozenset({KEY, KEY._replace(pid=8)}))], [], 10.0),
    ],
    ids=["sampled", "to the end", "noted only", "both joined", "twice, the longer counts", "beside another"],
)
def test_how_long_a_lock_was_held(samples: list[Sample], sightings: list[Sighting], held: float) -> None:
    """Samples from outside and notes from inside make one hold where they meet; the longest hold counts."""
    assert longest(samples, sightings, 10.0)[KEY] == pytest.approx(held)


def test_findings_name_table_lock_and_remedy() -> None:
    """Each finding says what was seen, on which table, under which lock, and what to do instead."""
    lock = Lock("public.t", "AccessExclusiveLock", 0.25, 10)
    seen = Observation(
        locks=(lock,),
        rewrites=(Rewrite("public.t", "another type", 10, 8192),),
        indexes=(IndexMade("public.i", "public.t", True, 10), IndexMade("public.j", "public.t", False, 10)),
        required=(RequiredColumn("public.t", "c", 10),),
    )
    found = {one.rule: str(one) for one in rules.findings(NOTHING, seen)}
    assert set(found) == {rules.REQUIRED, rules.REWRITE, rules.INDEX}
    assert "under ACCESS EXCLUSIVE on public.t for 250 ms (stops reads and writes)" in found[rules.REWRITE]
    assert "public.i" in found[rules.INDEX]
    assert "column c of public.t (10 rows)" in found[rules.REQUIRED]
    assert list(rules.findings(NOTHING, Observation(locks=(lock,)))) == []


def test_what_is_allowed() -> None:
    """A rule is allowed everywhere, or in one migration."""
    found = [rules.Finding(rules.REWRITE, "", ""), rules.Finding(rules.INDEX, "", "")]
    assert rules.allowed(found, [rules.REWRITE], "2") == [found[1]]
    assert rules.allowed(found, [f"2:{rules.INDEX}"], "2") == [found[0]]
    assert rules.allowed(found, [f"3:{rules.INDEX}"], "2") == found


def test_locks_say_what_they_stop() -> None:
    """A lock's level is that of SQL, and it says what others cannot do."""
    modes = ("RowExclusiveLock", "ShareLock", "AccessExclusiveLock")
    assert [Lock("t", mode, 0.0, 0).stops for mode in modes] == ["", "writes", "reads and writes"]
    assert Lock("t", "ShareUpdateExclusiveLock", 0.0, 0).level == "SHARE UPDATE EXCLUSIVE"


def test_differences_of_rows() -> None:
    """Tables with other rows are named: how many there were, or that their values are others."""
    before = {"a": Print(1, "x"), "b": Print(2, "x"), "c": Print(3, "x"), "d": Print(4, "x")}
    after = {"a": Print(1, "x"), "b": Print(1200, "y"), "c": Print(3, "y")}
    assert list(data.differences(before, after)) == [
        "rows of b: 2 before, 1,200 after",
        "rows of c: there are 3 as before, with other values",
        "rows of d: 4 before, no table after",
    ]


def test_squawk_reads_each_statement(tmp_path: Path) -> None:
    """Also one that ends in a comment; what it cannot read is a finding."""
    statements = ["ALTER TABLE t ADD x int -- first", "ALTER TABLE t RENAME c TO d -- second"]
    assert [one.rule for one in squawk.findings(statements, root=tmp_path)] == ["renaming-column"]
    assert [one.rule for one in squawk.findings(["SELECT 1 FROM"], root=tmp_path)] == ["syntax-error"]


def test_squawk_that_does_not_work(tmp_path: Path) -> None:
    """A configuration of its own that it cannot read does not pass for a migration without faults."""
    (tmp_path / ".squawk.toml").write_text("excluded_rules = [")
    with pytest.raises(MachineError, match=r"squawk failed with status 1: Configuration error"):
        list(squawk.findings(["SELECT 1"], root=tmp_path))
