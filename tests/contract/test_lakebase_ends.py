"""The Lakebase provider, how leases, branches and runs end: nothing runs on, is left, or goes too early."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import psycopg
import pytest
from emulator_rigs import Emulated
from google.protobuf.duration_pb2 import Duration
from lakebase_rigs import Cloud, calls, cloud, ended, ours, sql, troubled_cloud

from pytest_lakebranch import cloud_record
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.emulator.sql import run as run_sql
from pytest_lakebranch.errors import BranchError, CloudError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.lakebase.names import Name, owner_of
from pytest_lakebranch.providers.lakebase.reaper import reap
from pytest_lakebranch.state import State
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
KEY = "0123456789abcdef"


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider on the shared emulator; what a test leaves on purpose is cleared."""
    with troubled_cloud(lakebase, tmp_path) as made:
        yield made
    lakebase.clear()


@contextlib.contextmanager
def slow(emulated: Emulated, **latencies: str) -> Iterator[None]:
    """Calls take their time in the block."""
    emulated.control("PATCH", "latencies", latencies).raise_for_status()
    try:
        yield
    finally:
        emulated.control("PATCH", "latencies", dict.fromkeys(latencies, "0")).raise_for_status()


def note(seconds: float) -> Kept:
    """What is known of a branch that is to be kept so long."""
    now = time.time()
    return Kept("run", "b9", "test_x", "gw0", "failed", "/", now, now + seconds, {})


def expires(emulated: Emulated, path: str) -> float | None:
    """When a branch does, in seconds since 1970."""
    status = emulated.w.postgres.get_branch(path).status
    assert status is not None
    return None if status.expire_time is None else status.expire_time.ToDatetime(tzinfo=UTC).timestamp()


def renewals(emulated: Emulated) -> int:
    """How often a branch's expiry was changed; refusals while its endpoint becomes smaller are not counted."""
    return sum(asked.route == "update_branch" and asked.status == 200 for asked in emulated.emulator.application.served)


def template(here: Cloud, key: str = KEY) -> ForkPoint:
    """A sealed template."""
    return here.provider.seal(here.provider.build("b0", None, key=key), key)


@pytest.mark.parametrize(("seconds", "says"), [(0.4, "wrote in 1 transaction"), (60, None)], ids=["short", "long"])
def test_a_statement_whose_client_hung_up(here: Cloud, seconds: float, says: str | None) -> None:
    """It is waited for, then ended: the next lease does not see what it writes."""
    compute = here.start()
    client = connect(compute.endpoint, autocommit=True)
    client.pgconn.send_query(b"select pg_sleep(%f); insert into item values (77)" % seconds)
    assert poll(lambda: compute._look()[1] or None, deadline=Deadline(5))
    client.close()
    assert poll(lambda: None if compute.has_clients else True, deadline=Deadline(5))
    assert ended(compute) == says
    assert compute._look()[1] == 0


def test_clients_that_could_not_be_ended_are_a_reason(lakebase: Emulated, tmp_path: Path) -> None:
    """A server that cannot be asked whether they are gone is not believed to be clean."""
    ahead = [0.0]
    with cloud(lakebase, tmp_path, wall=lambda: time.time() + ahead[0]) as here:
        compute = here.start()
        with connect(compute.endpoint):
            ahead[0] = 3500.0  # our own token is too old
            compute.rest()
            lakebase.emulator.faults.add({"route": "generate_database_credential", "kind": "status", "status": 400})
            compute.end_connections()
        lakebase.emulator.faults.clear()
        assert poll(lambda: None if compute.has_clients else True, deadline=Deadline(5))
        assert compute.change() == "its clients could not be ended"


def test_a_project_whose_maintenance_database_is_closed(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """The project's own does for our connection, also for templates."""
    emulated = new_emulator()
    production = emulated.emulator.world.projects["demo"].branches["production"].store.running()
    run_sql(production.server, "revoke connect on database {} from public", "postgres")
    with cloud(emulated, tmp_path, database="shop", user="clerk") as here:
        at = template(here)
        compute = here.provider.start("b1", at)
        compute.mark()
        assert sql(compute.endpoint, "select current_database() || current_user") == [("shopclerk",)]
        assert ended(compute) is None


def test_what_a_kept_branch_comes_from_stays(here: Cloud) -> None:
    """The end of the run does not wait for what cannot be deleted; it goes after its death date."""
    at = template(here)
    compute = here.provider.start("b1", at)
    compute.keep(note(7200))
    record = cloud_record.read(here.home)
    assert record is not None
    assert record.kept == (compute.path,)
    here.provider.close()
    assert len(ours(here.emulated)) == 2
    assert cloud_record.read(here.home) is None
    assert "delete_branch" not in calls(here.emulated)[-4:]


def test_keeping_is_done_when_it_says_so(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """As late as the workspace allows, after children that are being deleted; what is said is what is so."""
    latencies = {"delete_branch": "0.5", "update_branch": "0.3"}
    emulated = new_emulator(limits=Limits(branch_ttl=1000.0), latencies=latencies)
    with cloud(emulated, tmp_path) as here:
        compute = here.start("b1")
        here.start("b2", at=compute.fork_point()).discard()
        kept = compute.keep(note(7200))
        assert 300 <= kept.until - time.time() <= 1000
        assert expires(emulated, compute.path) == pytest.approx(kept.until, abs=30)


def test_a_branch_may_be_kept_longer_than_the_history(here: Cloud) -> None:
    """What the workspace allows is what counts, not how far back it can fork."""
    compute = here.start("b1")
    assert compute.keep(note(10 * 86400)).until - time.time() == pytest.approx(10 * 86400, abs=60)
    assert (expires(here.emulated, compute.path) or 0) - time.time() == pytest.approx(10 * 86400, abs=60)


def test_no_renewal_undoes_what_has_no_end(lakebase: Emulated, tmp_path: Path) -> None:
    """A branch that is being forked is not renewed any more."""
    ahead = [0.0]
    with cloud(lakebase, tmp_path, wall=lambda: time.time() + ahead[0]) as here, slow(lakebase, update_branch="0.5"):
        compute = here.start("b1")
        ahead[0] = 1500.0
        forking = threading.Thread(target=compute.fork_point)
        before = calls(lakebase).count("update_branch")
        forking.start()
        assert poll(lambda: calls(lakebase).count("update_branch") > before or None, deadline=Deadline(5))
        here.provider._upkeep.tick()
        forking.join()
        assert expires(lakebase, compute.path) is None


def test_a_renewal_that_failed_is_tried_again(lakebase: Emulated, tmp_path: Path) -> None:
    """At the next look, and then it is no trouble any more."""
    ahead = [0.0]
    with cloud(lakebase, tmp_path, wall=lambda: time.time() + ahead[0]) as here:
        compute = here.start("b1")
        before = expires(lakebase, compute.path)
        lakebase.emulator.faults.add({"route": "update_branch", "kind": "status", "status": 403})
        ahead[0] = 1500.0
        here.provider._upkeep.tick()
        (trouble,) = here.provider._upkeep.troubles
        assert isinstance(trouble, CloudError)
        here.provider._upkeep.tick()
        assert before is not None
        assert (expires(lakebase, compute.path) or 0) > before
    lakebase.emulator.faults.clear()


@pytest.mark.parametrize("off", [-3600.0, 3600.0], ids=["slow", "fast"])
def test_a_clock_that_is_an_hour_off(lakebase: Emulated, tmp_path: Path, off: float) -> None:
    """Changes nothing: times to live are the service's to count, and nobody else's branch is taken for dead."""
    others = Name(owner_of("other@example.com"), "2" * 8, "b1", time.time())
    lakebase.branch(name=str(others))
    with cloud(lakebase, tmp_path, wall=lambda: time.time() + off) as here:
        compute = here.start("b1")
        assert 3000 < (expires(lakebase, compute.path) or 0) - time.time() <= 3600
        assert here.start("b2", at=compute.fork_point()).change() is None
        kept = here.start("b3")
        until = time.time() + off + 7200
        kept.keep(replace(note(0), until=until))
        assert (expires(lakebase, kept.path) or 0) - time.time() == pytest.approx(7200, abs=30)
    assert ours(lakebase) == sorted([str(others), kept.path.rpartition("/")[2]])
    lakebase.clear()


def test_a_clock_that_is_set_back(lakebase: Emulated, tmp_path: Path) -> None:
    """Nobody knows then how old a branch is: it is renewed."""
    ahead = [0.0]
    with cloud(lakebase, tmp_path, wall=lambda: time.time() + ahead[0]) as here:
        here.start("b1")
        before = renewals(lakebase)
        here.provider._upkeep.tick()
        assert renewals(lakebase) == before
        ahead[0] = -3600.0
        here.provider._upkeep.tick()
        here.provider._upkeep.tick()
        assert renewals(lakebase) == before + 1


def test_who_is_needed_for_long_is_small(here: Cloud) -> None:
    """The smallest compute, suspended as early as may be; one that is deleted at once is not asked to be."""
    compute = here.start("b1")
    here.provider._upkeep.tick()
    assert "update_endpoint" not in calls(here.emulated)[-3:]
    here.provider._upkeep.tick()

    def is_small() -> bool:
        status = here.emulated.w.postgres.get_endpoint(f"{compute.path}/endpoints/primary").status
        return (status.autoscaling_limit_max_cu, status.suspend_timeout_duration.seconds) == (0.5, 60)

    assert poll(lambda: is_small() or None, deadline=Deadline(10))


def test_a_server_that_does_not_answer_is_given_up(here: Cloud) -> None:
    """One whose machine lives and that says nothing: whoever waits for it gets an error, and the branch is replaced."""
    compute = here.start("b1")
    with ThreadPoolExecutor() as threads:
        asked = threads.submit(compute._query, "select pg_sleep(60)")
        assert poll(lambda: compute._asked, deadline=Deadline(5))
        compute.hang_up_if_silent(60.0)
        compute.rest_if_idle(0.0)
        assert not asked.done()
        compute.hang_up_if_silent(0.0)
        with pytest.raises(psycopg.OperationalError):
            asked.result(10)
    assert compute.change() is not None


def test_a_template_that_was_superseded_has_an_end(lakebase: Emulated, tmp_path: Path) -> None:
    """Others may still use it: it goes a day after it was made, with whatever run of its owner's ends then."""
    ahead = [0.0]
    for key in (KEY, KEY[::-1]):
        with cloud(lakebase, tmp_path, run=key, wall=lambda: time.time() + ahead[0], keep_template=True) as one:
            assert one.provider.cached(key) is None
            template(one, key)
    assert len(ours(lakebase)) == 2
    for hours, left in ((20.0, 2), (26.0, 0)):
        ahead[0] = hours * 3600
        with cloud(lakebase, tmp_path, run=f"later{hours}", wall=lambda: time.time() + ahead[0], keep_template=True):
            pass
        assert poll(lambda: True if len(ours(lakebase)) == left else None, deadline=Deadline(5)), ours(lakebase)  # noqa: B023


def test_no_name_is_used_twice(here: Cloud) -> None:
    """The template of a worker that died is still being deleted when another one builds it; so may be a branch that
    the service had no room for after all.
    """
    with slow(here.emulated, delete_branch="0.5"):
        here.provider.build("b1", None, key=KEY).discard()
        here.provider.build("b2", None, key=KEY)
    fault = {"route": "create_branch", "kind": "status", "status": 400, "error_code": "RESOURCE_EXHAUSTED"}
    here.emulated.emulator.faults.add(fault)
    assert "-b3r2-" in here.start("b3").path


def test_the_latest_template_is_used(here: Cloud, lakebase: Emulated, tmp_path: Path) -> None:
    """Of those that runs have kept."""
    made = []
    for number in range(2):
        later = 120.0 * (1 - number)  # the one that is listed last is the older one
        with cloud(lakebase, tmp_path, run=f"r{number}", wall=lambda: time.time() + later, keep_template=True) as one:  # noqa: B023
            made.append(template(one).location)
    with cloud(lakebase, tmp_path, keep_template=True) as one:
        found = one.provider.cached(KEY)
        assert found is not None
        assert found.location == made[0] != made[1]


def test_a_template_that_goes_with_its_run_is_nobody_elses(here: Cloud, lakebase: Emulated, tmp_path: Path) -> None:
    """A run that keeps templates does not fork from one that another run deletes at its end."""
    template(here)
    with cloud(lakebase, tmp_path, run="another", keep_template=True) as other:
        assert other.provider.cached(KEY) is None


def test_one_failed_deletion_is_made_up_for(here: Cloud) -> None:
    """By the sweep at the end; then nothing was left behind, and nothing is said."""
    compute = here.start("b1")
    here.emulated.emulator.faults.add({"route": "delete_branch", "kind": "status", "status": 403})
    compute.discard()
    here.provider.close()
    assert poll(lambda: None if ours(here.emulated) else True, deadline=Deadline(5))


def test_what_machines_that_are_gone_have_left(here: Cloud) -> None:
    """Is deleted by any later run of the same owner."""
    project = here.provider._project
    past, soon = time.time() - 86400, time.time() + 86400
    names = [str(Name(project.owner, "7" * 8, tag, dies)) for tag, dies in (("b1", past), ("b2", soon), ("b3", past))]
    here.emulated.branch(name=names[0])
    here.emulated.branch(name=names[1])
    here.emulated.branch(name=names[2], ttl=Duration(seconds=3000))
    here.provider.close()
    assert poll(lambda: None if len(ours(here.emulated)) > 2 else True, deadline=Deadline(5))
    assert ours(here.emulated) == sorted(names[1:])


def test_one_that_cannot_go_stops_no_sweep(here: Cloud, tmp_path: Path) -> None:
    """It is said, the others go, and a parent of what stays is not waited for."""
    project = here.provider._project
    dies = time.time() - 86400
    path = f"{project.api.project}/branches"
    stays, fails, goes = (str(Name(project.owner, "7" * 8, tag, dies)) for tag in ("b1", "b2", "b3"))
    for name in (stays, fails, goes):
        here.emulated.branch(name=name)
    here.emulated.branch(source=f"{path}/{stays}", name="somebodys")
    here.emulated.emulator.faults.add({"route": "delete_branch", "path": fails, "kind": "status", "status": 403})
    before = calls(here.emulated).count("delete_branch")
    with pytest.raises(CloudError, match=f"deleting {path}/{fails}: 403"):
        reap(project, State(tmp_path / "home").ensure())
    assert calls(here.emulated).count("delete_branch") - before == 2
    assert poll(lambda: None if goes in ours(here.emulated) else True, deadline=Deadline(5))
    assert {stays, fails} <= set(ours(here.emulated))
    here.emulated.emulator.faults.clear()
    here.emulated.clear()


def test_times_are_written_as_the_service_wants_them(here: Cloud) -> None:
    """With seconds, in UTC; what is none is said before anything is asked."""
    at = here.provider.at
    for given, sent in (
        ("2026-11-01T12:00Z", "2026-11-01T12:00:00Z"),
        ("2026-11-01T12:00:00.5+02:00", "2026-11-01T10:00:00.500000Z"),
        ("0/16B3748", "0/16B3748"),
    ):
        assert at(given).location.endswith(f"@{sent}")
    for wrong in ("yesterday", "2026-11-01T12:00"):
        with pytest.raises(BranchError, match=rf"at='{wrong}' is neither a time with its zone.* nor a position"):
            at(wrong)
