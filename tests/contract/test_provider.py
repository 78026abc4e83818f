"""What every provider keeps: the same tests on the local one, on Lakebase's emulator, and in the cloud itself.

The cloud's turn comes with ``make cloud``: CLOUD_SOURCE names a project in which the identity of the environment
CAN MANAGE; DATABRICKS_* say who that is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from emulator_rigs import Emulated
from lakebase_rigs import cloud, ended, ours, real_cloud, sql
from local_rigs import rig

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.base import Compute, Provider

pytest_plugins = ["emulator_fixtures"]
MADE = ("create table made (x int)", "insert into made select generate_series(1, 3)", "create sequence numbers")


@dataclass
class Anywhere:
    """A provider, a directory for sockets and one for files; and what of it is left where it lives."""

    provider: Provider
    sockets: Path
    files: Path
    left: Callable[[], list[str]]

    def base(self) -> ForkPoint:
        """A sealed base with a table of three rows."""
        key = Plan(("three rows",), ("sql:x",)).keys(self.provider.root_key)[-1]
        found = self.provider.cached(key)
        if found is not None:
            return found
        with self.provider.building(key):
            compute = self.provider.build("base", self.provider.cached(self.provider.root_key), key=key)
            sql(compute.endpoint, *MADE)
            self.provider.check_quiet(compute)
            return self.provider.seal(compute, key)

    def start(self, name: str, at: ForkPoint | None = None) -> Compute:
        """A branch of the base, with a lease begun."""
        compute = self.provider.start(name, at or self.base())
        compute.mark()
        return compute

    def engine(self) -> Engine:
        """An engine over the provider."""
        return Engine(self.provider, Ledger(self.files / "ledger"), addresses=self.sockets)


@pytest.fixture(params=["local", "emulator", "cloud"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, shared_home: Path) -> Iterator[Anywhere]:
    """Each provider in turn; afterwards nothing is left of it."""
    with ExitStack() as stack:
        if request.param == "local":
            local = stack.enter_context(rig(shared_home / "contract"))
            yield Anywhere(local.provider, local.sockets, tmp_path, list)
            return
        if request.param == "cloud":
            if "CLOUD_SOURCE" not in os.environ:
                pytest.skip("no cloud: `make cloud` with CLOUD_SOURCE=projects/NAME and credentials")
            made = stack.enter_context(real_cloud(tmp_path))
            yield Anywhere(made.provider, made.sockets, tmp_path, list)
            return
        emulated: Emulated = request.getfixturevalue("lakebase")
        made = stack.enter_context(cloud(emulated, tmp_path))
        yield Anywhere(made.provider, made.sockets, tmp_path, lambda: ours(emulated))
        made.provider.close()
        assert ours(emulated) == []


def test_branches_are_copies_of_the_base(anywhere: Anywhere) -> None:
    """What one writes no other sees; what was only read is as it was; what was written to is not."""
    first, second = anywhere.start("b1"), anywhere.start("b2")
    sql(first.endpoint, "delete from made")
    assert sql(second.endpoint, "select count(*) from made") == [(3,)]
    assert ended(second) is None
    assert ended(first) is not None
    assert first.death() is None


def test_room_for_files(anywhere: Anywhere) -> None:
    """Where a base may be made of another server's files, there is an empty, private directory for them."""
    compute = anywhere.provider.build("base", None)
    try:
        incoming = anywhere.provider.incoming(compute)
        if incoming is not None:
            assert list(incoming.directory.iterdir()) == []
            assert incoming.directory.stat().st_mode & 0o077 == 0
    finally:
        compute.discard(disposable=True)
    assert incoming is None or not incoming.directory.exists()


def test_connections_end_with_the_lease(anywhere: Anywhere) -> None:
    """They are counted, and their clients get an error."""
    compute = anywhere.start("b1")
    with connect(compute.endpoint) as left:
        left.execute("select 1")
        assert compute.end_connections() == 1
        with pytest.raises(psycopg.OperationalError):
            left.execute("select 1")
    assert compute.change() is None


def test_connections_that_are_spared(anywhere: Anywhere) -> None:
    """They stay, and keep the branch from counting as unchanged."""
    compute = anywhere.start("b1")
    with connect(compute.endpoint, autocommit=True) as spared, _idle(compute) as left:
        left.execute("select 1")
        assert compute.end_connections(but=frozenset([spared.info.backend_pid])) == 1
        spared.execute("select 1")
        assert compute.change() is not None


def _idle(compute: Compute) -> psycopg.Connection[Any]:
    return connect(compute.endpoint, autocommit=True)


def test_a_fork_has_the_present(anywhere: Anywhere) -> None:
    """Also when its parent writes afterwards; and the present is the same until something is written."""
    parent = anywhere.start("b1")
    sql(parent.endpoint, "insert into made values (4)")
    at = parent.fork_point()
    assert parent.fork_point() == at
    child = anywhere.start("b2", at)
    sql(parent.endpoint, "insert into made values (5)")
    assert sql(child.endpoint, "select max(x) from made") == [(4,)]
    assert parent.fork_point() != at
    child.discard()
    anywhere.provider.forget(at)


def test_the_admin_may_end_other_roles_sessions(anywhere: Anywhere) -> None:
    """As far as the provider allows, it is a superuser: it makes roles, which the tests' role is not asked to do."""
    compute = anywhere.start("b1")
    sql(compute.admin, "create role made_by_admin", "drop role made_by_admin")


def test_discarding_twice(anywhere: Anywhere) -> None:
    """Does nothing."""
    compute = anywhere.start("b1")
    compute.discard()
    compute.discard(disposable=True)
    with pytest.raises(psycopg.OperationalError):
        connect(compute.endpoint)


def test_the_engine_over_it(anywhere: Anywhere) -> None:
    """Clean leases share a branch, written ones do not; a fork of a worker's branch; nothing is left at the end."""
    with running(anywhere.engine()) as engine:
        plan = Plan(("engine",), ("sql:x",))
        ticket = engine.bases.request("gw0", plan)
        if ticket is not None:
            sql(ticket.endpoint, *MADE)
            engine.bases.stepped(ticket.id, 1, 0.1)
            engine.bases.finish(ticket.id)
        base = engine.bases.key(plan)
        first = engine.lease(Request("gw0", "test_a", "test", base))
        sql(first.endpoint, "select * from made")
        assert engine.release(first.lease).ending == "clean"
        second = engine.lease(Request("gw0", "test_b", "test", base))
        sql(second.endpoint, "delete from made")
        assert engine.release(second.lease).ending in ("rewind", "replace")
        third = engine.lease(Request("gw0", "test_c", "test", base))
        assert sql(third.endpoint, "select count(*) from made") == [(3,)]
        worker = engine.lease(Request("gw0", "gw0", "worker", base))
        sql(worker.endpoint, "insert into made values (9)")
        child = engine.lease(Request("gw0", "test_d", "test", base, parent=worker.lease))
        assert sql(child.endpoint, "select max(x) from made") == [(9,)]
        engine.reset(third.lease)
    assert engine.summary().left_behind == ()
    assert anywhere.left() == []
