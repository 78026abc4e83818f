"""The Lakebase provider on the emulator: the life of branches, leases, templates, forks, and what is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import psycopg
import pytest
from emulator_rigs import Emulated
from lakebase_rigs import Cloud, calls, cloud, ended, ours, sql

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.errors import CloudError
from pytest_lakebranch.kept import Kept, open_command
from pytest_lakebranch.postgres.connect import connect

pytest_plugins = ["emulator_fixtures"]
CREDENTIAL = "generate_database_credential"


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider on the shared emulator; afterwards nothing of it is left."""
    with cloud(lakebase, tmp_path) as made:
        yield made
    assert ours(lakebase) == []


def test_a_branch_is_a_copy_of_the_source(here: Cloud) -> None:
    """What is written in it is in no other, and reading leaves no change."""
    first, second = here.start("b1"), here.start("b2")
    assert sql(first.endpoint, "select count(*) from item") == [(10,)]
    assert ended(first) is None
    sql(first.endpoint, "delete from item")
    assert sql(second.endpoint, "select count(*) from item") == [(10,)]
    assert ended(second) is None
    assert ended(first) == "wrote in 1 transaction"


@pytest.mark.parametrize(
    ("statement", "clean"),
    [
        ("select * from item", True),
        ("create temporary table t (x int)", False),
        ("create sequence numbers; select nextval('numbers')", False),
        ("begin; delete from item; rollback", False),
        ("begin; insert into item values (99); prepare transaction 'left'", False),
        ("select pg_notify('a', 'b')", False),
        ("select * from item for update", False),
        ("set work_mem = '1MB'", True),
        ("select pg_advisory_lock(1)", True),
    ],
)
def test_what_is_a_change(here: Cloud, statement: str, clean: bool) -> None:
    """Nothing that another test could see goes unnoticed."""
    compute = here.start()
    sql(compute.endpoint, statement)
    assert (ended(compute) is None) is clean


def test_clients_are_ended_and_counted(here: Cloud) -> None:
    """Who is connected at the end of a lease gets an error; who had closed does not count."""
    compute = here.start()
    sql(compute.endpoint, "select 1")
    with connect(compute.endpoint) as left:
        left.execute("select 1")
        assert compute.end_connections() == 1
        with pytest.raises(psycopg.OperationalError):
            left.execute("select 1")
    assert compute.change() is None


def test_a_fork_has_the_present_and_goes_before_its_parent(here: Cloud) -> None:
    """A branch with children has no expiry, and is deleted after them."""
    parent = here.start("b1")
    sql(parent.endpoint, "insert into item values (11)")
    at = parent.fork_point()
    assert parent.fork_point() == at
    child = here.start("b2", at=at)
    assert sql(child.endpoint, "select count(*) from item") == [(11,)]
    parent.discard()
    assert any("-b1-" in name for name in ours(here.emulated))
    child.discard()
    here.provider.close()
    assert ours(here.emulated) == []


def test_a_fork_point_is_the_state_it_was_taken_in(here: Cloud) -> None:
    """What the parent writes afterwards is not in a branch forked from it."""
    parent = here.start("b1")
    sql(parent.endpoint, "insert into item values (11)")
    at = parent.fork_point()
    first = here.start("b2", at=at)
    sql(parent.endpoint, "insert into item values (12)")
    assert sql(here.start("b3", at=at).endpoint, "select max(id) from item") == [(11,)]
    assert parent.fork_point() != at
    assert sql(first.endpoint, "select max(id) from item") == [(11,)]


def test_the_past(here: Cloud) -> None:
    """at= forks the source as it was; a time that is not in its history is the service's error."""
    here.start("b1")
    lsn = here.emulated.w.postgres.get_branch(f"{here.emulated.project}/branches/{ours(here.emulated)[0]}")
    assert lsn.status is not None
    position = str(lsn.status.source_branch_lsn)
    with here.emulated.connect(here.emulated.production) as production:
        production.execute("insert into item values (500)")
        try:
            assert sql(here.start("b2").endpoint, "select max(id) from item") == [(500,)]
            then = here.start("b3", at=here.provider.at(position))
            assert sql(then.endpoint, "select max(id) from item") == [(10,)]
        finally:
            production.execute("delete from item where id = 500")
    with pytest.raises(CloudError, match=r"400 INVALID_PARAMETER_VALUE: .*history.* Request id: "):
        here.provider.start("b4", here.provider.at("2001-01-01T00:00:00Z"))


def test_calls_of_one_branch(here: Cloud) -> None:
    """A branch's life takes at most six calls, once it is known how long they take."""
    point = here.provider.cached(here.provider.root_key)
    assert point is not None
    here.provider.start("b0", point)
    before = len(here.emulated.emulator.application.served)
    compute = here.start("b1")
    sql(compute.endpoint, "select 1")
    compute.discard()
    here.provider.close()
    served = list(here.emulated.emulator.application.served)[before:]
    made = [each.route for each in served if "-b1-" in each.path or each.route in ("create_branch", CREDENTIAL)]
    refused = [each.route for each in served if each.status == 409]  # it was still being resized when it was deleted
    assert len(made) - len(refused) <= 6, made


def test_steps_make_a_template(here: Cloud) -> None:
    """Role and database are made, steps work as the role, what they made is in every branch, and the template goes."""
    engine = here.engine()
    plan = Plan(("f1",), ("sql:x",))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    sql(ticket.endpoint, "create table made (x int)", "insert into made values (1)")
    engine.bases.stepped(ticket.id, 1, 5.0)
    engine.bases.finish(ticket.id)
    assert [name for name in ours(here.emulated) if "-t" in name]
    grant = engine.lease(Request("gw0", "test_x", "test", ticket.id))
    assert sql(grant.endpoint, "select x from made") == [(1,)]
    assert engine.release(grant.lease).ending == "clean"
    engine.close()
    assert engine.summary().left_behind == ()
    assert ours(here.emulated) == []


def test_only_reading_makes_a_branch_for_each_worker(here: Cloud) -> None:
    """However many tests there are, and no more."""
    engine, plan = here.engine(workers=2), Plan((), ())
    before = len(calls(here.emulated))
    engine.bases.request("gw0", plan)
    for number in range(4):
        requests = [Request(worker, f"test_{number}", "test", engine.bases.key(plan)) for worker in ("gw0", "gw1")]
        grants = [engine.lease(request) for request in requests]
        for grant in grants:
            assert sql(grant.endpoint, "select count(*) from item") == [(10,)]
            assert engine.release(grant.lease).ending == "clean"
    engine.close()
    assert calls(here.emulated)[before:].count("create_branch") == 2


def test_a_kept_template_serves_the_next_run(lakebase: Emulated, tmp_path: Path) -> None:
    """With lakebranch_keep_template no step runs again, and the template is not deleted with the first run."""
    plan = Plan(("kept",), ("sql:x",))
    with cloud(lakebase, tmp_path, run="one", keep_template=True) as here:
        engine = here.engine()
        ticket = engine.bases.request("gw0", plan)
        assert ticket is not None
        sql(ticket.endpoint, "create table made (x int)", "insert into made values (1)")
        engine.bases.stepped(ticket.id, 1, 5.0)
        engine.bases.finish(ticket.id)
        engine.close()
    (template,) = ours(lakebase)
    try:
        with cloud(lakebase, tmp_path, run="two", keep_template=True) as here:
            engine = here.engine()
            assert engine.bases.request("gw0", plan) is None
            grant = engine.lease(Request("gw0", "test_x", "test", engine.bases.key(plan)))
            assert sql(grant.endpoint, "select x from made") == [(1,)]
            engine.close()
        assert ours(lakebase) == [template]
    finally:
        lakebase.clear()


def test_a_kept_branch_stays_and_expires(here: Cloud) -> None:
    """Until its time has passed; its name is what `lakebranch open` takes."""
    compute = here.start("b9")
    until = time.time() + 7200
    settings = here.settings.to_json()
    note = compute.keep(Kept("run", "b9", "test_x", "gw0", "failed", "/", time.time(), until, settings))
    assert "lakebranch open b9 --provider lakebase" in open_command(note.test, note.branch, settings)
    here.provider.close()
    (left,) = ours(here.emulated)
    found = here.emulated.w.postgres.get_branch(f"{here.emulated.project}/branches/{left}")
    assert found.status is not None
    assert found.status.expire_time is not None
    assert abs(found.status.expire_time.ToDatetime(tzinfo=UTC).timestamp() - until) < 60
    here.emulated.w.postgres.delete_branch(f"{here.emulated.project}/branches/{left}", purge=True).wait()
