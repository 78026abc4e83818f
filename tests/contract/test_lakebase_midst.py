"""What happens in the midst of a run on Lakebase: hours pass, tokens end, the network goes; the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from emulator_rigs import Emulated
from lakebase_network import line
from lakebase_rigs import Cloud, cloud, machine, ours, sql

from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.state import PORT
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
COUNT = "select count(*) from made"


def built(engine: Engine) -> str:
    """A base with a step: its key."""
    ticket = engine.bases.request("gw0", Plan(("f1",), ("sql:x",)))
    assert ticket is not None
    sql(ticket.endpoint, "create table made (x int)", "insert into made values (1)")
    engine.bases.stepped(ticket.id, 1, 5.0)
    engine.bases.finish(ticket.id)
    return ticket.id


def wait_until_quiet(here: Cloud) -> None:
    """Until no branch is being made or deleted: all that the budget counts are alive, or the template."""
    budget = here.provider._project.budget
    is_quiet = lambda: budget._taken == len(here.provider._living()) + 1  # noqa: E731
    assert poll(lambda: is_quiet() or None, deadline=Deadline(60), every=0.01)


@pytest.mark.parametrize(
    ("rounds", "seconds"), [(4, 1200), pytest.param(12, 600, marks=pytest.mark.soak)], ids=["80 minutes", "two hours"]
)
def test_a_long_run(new_emulator: Callable[..., Emulated], tmp_path: Path, rounds: int, seconds: int) -> None:
    """While a clock moves on, with a template, branches of the run and of a worker, forks, and a service principal: no
    branch expires, no call and no login is refused.
    """
    emulated, ahead = new_emulator(), [0.0]
    own = {"login": machine(emulated), "database": "shop", "user": "clerk"}
    with (
        cloud(emulated, tmp_path, wall=lambda: time.time() + ahead[0], **own) as here,
        running(here.engine()) as engine,
    ):
        base = built(engine)
        of_run, worker = (engine.lease(Request("gw0", name, name, base)) for name in ("run", "worker"))
        for number in range(rounds):
            wait_until_quiet(here)  # a call that is under way while the clock moves has an old token
            ahead[0] += seconds
            emulated.emulator.advance(seconds)
            here.provider._upkeep.tick()
            fork = engine.lease(Request("gw0", f"fork_{number}", "test", base, parent=worker.lease))
            plain = engine.lease(Request("gw0", f"test_{number}", "test", base))
            sql(plain.endpoint, "insert into made values (2)")
            assert sql(of_run.endpoint, COUNT) == [(1,)]
            assert sql(fork.endpoint, COUNT) == [(1 + number,)]
            sql(worker.endpoint, "insert into made values (3)")
            alive = here.provider._living()
            assert {compute.path.rpartition("/")[2] for compute in alive} <= set(ours(emulated))
            assert {compute.door.refused for compute in alive} == {""}
            for each in (fork, plain):
                engine.release(each.lease)
    served = list(emulated.emulator.application.served)
    assert 401 not in {each.status for each in served}
    assert len([each for each in served if each.route == "oidc_token"]) > 1
    assert engine.summary().left_behind == ()
    assert ours(emulated) == []


def test_a_token_that_ends_before_its_time(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """A service principal's access token that the service does not take any more is renewed, and the call repeated."""
    emulated = new_emulator()
    with cloud(emulated, tmp_path, login=machine(emulated)) as here:
        here.start("b1")
        emulated.emulator.advance(3601)
        assert sql(here.start("b2").endpoint, "select count(*) from item") == [(10,)]
    served = emulated.emulator.application.served
    assert [each.status for each in served if each.route == "oidc_token"] == [200, 200]
    assert [each.status for each in served].count(401) == 1
    assert ours(emulated) == []


def test_the_network_is_gone_for_a_while(lakebase: Emulated, tmp_path: Path) -> None:
    """Who is connected is cut off and told so; who asks for a branch meanwhile gets one when it is back; nothing is
    left.
    """
    api = urlsplit(lakebase.url)
    with line(("127.0.0.1", 0), (str(api.hostname), api.port or 0)) as control, line(("0.0.0.0", 0), PORT) as data:
        seen = Emulated(lakebase.emulator, f"http://127.0.0.1:{control.port}")
        with cloud(seen, tmp_path, endpoint_port=str(data.port)) as here, running(here.engine()) as engine:
            base = built(engine)
            first = engine.lease(Request("gw0", "test_1", "test", base))
            with connect(first.endpoint, autocommit=True) as connection:
                assert connection.execute(COUNT).fetchone() == (1,)
                control.cut()
                data.cut()
                with pytest.raises(psycopg.OperationalError):
                    connection.execute("insert into made values (2)")
            with ThreadPoolExecutor() as threads:
                asked = threads.submit(_next, engine, first.lease, base)
                assert poll(lambda: control.turned_away > 3 or None, deadline=Deadline(60))
                assert not asked.done()
                control.mend()
                data.mend()
                asked.result(60)
    assert engine.summary().left_behind == ()
    assert poll(lambda: None if ours(lakebase) else True, deadline=Deadline(10)), ours(lakebase)


def _next(engine: Engine, lease: str, base: str) -> None:
    """Give a lease back, and use another."""
    engine.release(lease)
    grant = engine.lease(Request("gw0", "test_2", "test", base))
    assert sql(grant.endpoint, "insert into made values (3)", COUNT) == [(2,)]
    engine.release(grant.lease)
