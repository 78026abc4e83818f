"""Bases and their tickets: who builds, who waits, what is cached, and builders that die."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.processes import servers_in
from tests.contract.engine_rigs import Make, execute

pytest_plugins = ["engine_fixtures"]


def test_a_builder_that_dies_before_the_seal_caches_nothing(make: Make) -> None:
    """Sealing what a dead worker has built is refused, and the next worker builds anew."""
    engine, plan = make(rebuild=True), Plan(("unsealed",), ("sql:unsealed",))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    engine.worker_gone("gw0")
    with pytest.raises(BaseError, match="void"):
        engine.bases.finish(ticket.id)
    again = engine.bases.request("gw1", plan)
    assert again is not None
    engine.bases.fail(again.id, "enough")
    assert make().bases.request("gw0", plan) is not None


def test_one_ticket_for_many_workers(make: Make) -> None:
    """One worker builds, the others wait and then find the base ready."""
    engine, plan = make(rebuild=True), Plan(("one",), ("sql:one",))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    with ThreadPoolExecutor(3) as workers:
        waiting = [workers.submit(engine.bases.request, f"gw{n}", plan) for n in (1, 2, 3)]
        with connect(ticket.endpoint, autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS x")
        engine.bases.stepped(ticket.id, 1, 0.1)
        assert not any(asked.done() for asked in waiting)
        engine.bases.finish(ticket.id)
        assert [asked.result(60) for asked in waiting] == [None] * 3
    grant = engine.lease(Request("gw0", "t", "test", engine.bases.key(plan)))
    assert execute(grant, "SELECT x FROM t") == [(1,)]
    (built,) = engine.summary().bases
    assert built.steps == ("sql:one",)


def test_the_ticket_of_a_dead_worker_passes_on(make: Make) -> None:
    """Who waits gets it, and starts from the beginning."""
    engine, plan = make(rebuild=True), Plan(("dies",), ("sql:dies",))
    first = engine.bases.request("gw0", plan)
    assert first is not None
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(engine.bases.request, "gw1", plan)
        engine.worker_gone("gw0")
        second = waiting.result(60)
    assert second is not None
    with pytest.raises(psycopg.OperationalError):
        connect(first.endpoint)
    with connect(second.endpoint):
        pass


def test_a_base_that_failed_is_not_tried_again_in_this_run(make: Make) -> None:
    """Others hear of it in one line; nothing is cached, so that another run tries again."""
    engine, plan = make(), Plan(("fails",), ("sql:fails",))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    engine.bases.fail(ticket.id, "line one\nline two")
    with pytest.raises(BaseError, match="line one") as caught:
        engine.bases.request("gw1", plan)
    assert "line two" not in str(caught.value)
    assert make().bases.request("gw0", plan) is not None


def test_only_what_changed_is_built(make: Make) -> None:
    """With a base cached, one more step starts after it; the same steps in another run start nothing."""
    engine = make()
    build(engine, Plan(("a",), ("a",)), {0: "CREATE TABLE a (x int)"})
    longer = Plan(("a", "b"), ("a", "b"))
    other = make()
    ticket = other.bases.request("gw0", longer)
    assert ticket is not None
    assert ticket.next == 1
    with connect(ticket.endpoint) as connection:
        connection.execute("SELECT * FROM a")
    other.bases.fail(ticket.id, "enough")
    assert make().bases.request("gw0", Plan(("a",), ("a",))) is None


def test_a_long_step_is_a_checkpoint(make: Make) -> None:
    """What a step of a second has done is kept for bases that begin with it."""
    engine, plan = make(rebuild=True), Plan(("long", "short"), ("long", "short"))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    after = engine.bases.stepped(ticket.id, 1, 2.0)
    assert after != ticket.endpoint
    with connect(after):
        pass
    engine.bases.fail(ticket.id, "enough")
    again = make().bases.request("gw0", Plan(("long", "other"), ("long", "other")))
    assert again is not None
    assert again.next == 1


def build(engine: Engine, plan: Plan, statements: dict[int, str]) -> None:
    """Build a base with one statement per step, unless it is cached."""
    ticket = engine.bases.request("gw0", plan)
    if ticket is None:
        return
    for number in range(ticket.next, len(plan.labels)):
        with connect(ticket.endpoint, autocommit=True) as connection:
            connection.execute(statements[number])
        engine.bases.stepped(ticket.id, number + 1, 0.0)
    engine.bases.finish(ticket.id)


def dies_after(monkeypatch: pytest.MonkeyPatch, engine: Engine, call: str) -> None:
    """Have gw0 die when its base's provider has carried out ``call``, and before anybody hears of that."""
    provider = engine.bases._provider
    carry_out = getattr(provider, call)

    def then_die(*args: Any, **kwargs: Any) -> Any:
        outcome = carry_out(*args, **kwargs)
        engine.worker_gone("gw0")
        return outcome

    monkeypatch.setattr(provider, call, then_die)


def test_a_builder_that_dies_during_the_seal(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ticket is void, and that of the worker which has begun anew meanwhile is not."""
    engine, plan = make(rebuild=True), Plan(("sealed",), ("sql:sealed",))
    first = engine.bases.request("gw0", plan)
    assert first is not None
    seal, tickets = engine.bases._provider.seal, []

    def then_another_begins(*args: Any) -> Any:
        sealed = seal(*args)
        engine.worker_gone("gw0")
        tickets.append(engine.bases.request("gw1", plan))
        return sealed

    with monkeypatch.context() as patch:
        patch.setattr(engine.bases._provider, "seal", then_another_begins)
        with pytest.raises(BaseError, match="void"):
            engine.bases.finish(first.id)
    (second,) = tickets
    assert second is not None
    engine.bases.stepped(second.id, 1, 0.0)
    engine.bases.finish(second.id)
    assert engine.bases.request("gw2", plan) is None


@pytest.mark.parametrize("call", ["seal", "build"])
def test_a_builder_that_dies_at_a_checkpoint(
    make: Make, monkeypatch: pytest.MonkeyPatch, shared_home: Path, tmp_path: Path, call: str
) -> None:
    """No server is left of its base."""
    engine, plan = make(rebuild=True), Plan(("long", call), ("long", call))
    ticket = engine.bases.request("gw0", plan)
    assert ticket is not None
    (run,) = [path for path in (shared_home / "runs").iterdir() if tmp_path.name in path.name]
    assert list(servers_in(run))
    dies_after(monkeypatch, engine, call)
    with pytest.raises(BaseError, match="void"):
        engine.bases.stepped(ticket.id, 1, 2.0)
    assert list(servers_in(run)) == []
