"""What rewinding promises: after any work of any clients, a rewound branch is the sealed one, byte for byte.

SOAK_LEASES sets how many leases there are (``make soak``: 5,000), SOAK_SEED which ones.
A failing example is printed as a list of leases that can be pasted into ``@example``.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, note, seed, settings, strategies as st
from local_rigs import Rig, rig
from rewind_rigs import Oracle, answers, end_lease, grow, rewind_base
from rewind_work import DDL, DML, ELSEWHERE, ORIGIN, RUINOUS, Work, can_succeed, do, is_lasting, works

from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.local.compute import LocalCompute

pytest_plugins = ["local_fixtures"]

T = TypeVar("T")
LEASES = int(OF_SOAK) if (OF_SOAK := os.environ.get("SOAK_LEASES")) else 36
SEED = int(os.environ.get("SOAK_SEED", "1"))
PER_EXAMPLE = 6
SETTINGS = {
    "plain": (),
    "generous": (
        *("wal_level=logical", "max_wal_senders=5", "max_replication_slots=5", "max_prepared_transactions=5"),
        "full_page_writes=on",
        "shared_preload_libraries=pg_stat_statements",
    ),
}
ALLOWED = re.compile(
    "configuration changed|a database of the base was dropped|a tablespace was (made|used)"
    "|a prepared transaction was left|a replication slot was left|added pages did not stay in memory"
    r"|the log has records of a kind that cannot be undone \((Tablespace|Database)/\w+\)",
)
"""Reasons for a replacement that the work of this test may lead to."""
MEANT_TO_FAIL = {"rollback to s{k}", ORIGIN, *(pattern for pattern in DDL if "printf" in pattern)}
"""Statements for which there must be something before, which our settings refuse, or that fail in mid-work."""


def is_allowed(reason: str, work: Work) -> bool:
    """Whether a lease with this work may end in a replacement for this reason."""
    return ALLOWED.fullmatch(reason) is not None or (work.ends_server and reason.startswith("server died"))


class Run:
    """Leases one after the other, on one branch as long as it can be rewound."""

    def __init__(self, made: Rig, at: ForkPoint) -> None:
        self.made = made
        self.at = at
        self.ends: Counter[str] = Counter()
        self.began = time.monotonic()
        self.known = self._known()

    def _known(self) -> list[str]:
        compute = self.made.start("known", self.at)
        found = answers(compute)
        compute.discard()
        assert not [answer for answer in found if "ERROR" in answer]
        return found

    def example(self, leases: list[Work], looks: list[str]) -> None:
        """A branch, and leases of it; each must leave it as it was sealed, or be replaced for a reason that may be."""
        compute = self.fresh()
        oracle = Oracle(compute)
        try:
            for number, (work, look) in enumerate(zip(leases, looks, strict=True)):
                ending, reason = do(compute, work, end_lease)
                self.ends[f"{ending}: {reason.split(':')[0]}" if ending == "replace" else ending] += 1
                note(f"lease {number} ended in {ending}: {reason}")
                if ending == "replace":
                    assert is_allowed(reason, work), reason
                    compute.discard(disposable=True)
                    compute = self.fresh()
                    oracle = Oracle(compute)
                else:
                    self.check(compute, oracle, look)
        finally:
            compute.discard()

    def fresh(self) -> LocalCompute:
        """A branch as it was sealed."""
        return self.made.start(f"b{sum(self.ends.values())}", self.at)

    def check(self, compute: LocalCompute, oracle: Oracle, look: str) -> None:
        """What is in memory is asked before the files are compared, or only read from them, or rows are added to it."""
        compute.mark()
        if look == "grow":
            grow(compute)
            assert end_lease(compute)[0] == "rewind"
            compute.mark()
        seen = answers(compute) if look == "first" else None
        assert oracle.differences() == []
        assert (seen or answers(compute)) == self.known
        compute.mark()


@pytest.fixture(scope="module", params=SETTINGS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shared_home) -> Iterator[Run]:
    """Leases in a state directory in memory, with our settings and with those that a user may have."""
    chosen = SETTINGS[request.param]
    with rig(shared_home, **({"settings": chosen} if chosen else {})) as made:
        yield (ran := Run(made, rewind_base(made)))
    took = time.monotonic() - ran.began
    print(f"\n{request.param}, seed {SEED}: {sum(ran.ends.values())} leases in {took:.0f} s: {dict(ran.ends)}")


def of_each_lease(what: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    """One for each lease of an example."""
    return st.lists(what, min_size=PER_EXAMPLE, max_size=PER_EXAMPLE)


@seed(SEED)
@settings(
    max_examples=math.ceil(LEASES / PER_EXAMPLE / len(SETTINGS)),
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
@given(leases=of_each_lease(works()), looks=of_each_lease(st.sampled_from(["first", "after", "grow"])))
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_any_work_is_undone(run: Run, leases: list[Work], looks: list[str]) -> None:
    """Whatever several clients did, however they ended, nothing of it is left."""
    run.example(leases, looks)


@pytest.mark.parametrize("run", ["generous"], indirect=True)
def test_each_statement_can_succeed(run: Run) -> None:
    """One that always fails proves nothing; a few are there to fail."""
    compute, failed = run.fresh(), set()
    for pattern in sorted((*DML, *DDL, *ELSEWHERE, *RUINOUS), key=is_lasting):
        if not can_succeed(compute, pattern):
            failed.add(pattern)
        if is_lasting(pattern):
            compute.discard(disposable=True)
            compute = run.fresh()
    compute.discard()
    assert failed == MEANT_TO_FAIL
