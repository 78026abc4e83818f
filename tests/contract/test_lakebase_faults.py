"""The Lakebase provider when calls fail: in every way, at every step of a branch's life, and nothing is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trustme
from databricks.sdk.service.postgres import Branch, BranchSpec, FieldMask
from emulator_rigs import Emulated
from lakebase_rigs import Cloud, calls, cloud, machine, ours, sql, troubled_cloud

from pytest_lakebranch import cloud_record
from pytest_lakebranch.cloud_record import CloudRecord
from pytest_lakebranch.emulator.limits import Limits
from pytest_lakebranch.errors import BranchError, CloudError, LakebranchError
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.providers.lakebase.names import Name, owner_of
from pytest_lakebranch.providers.lakebase.project import open_project
from pytest_lakebranch.providers.lakebase.reaper import reap
from pytest_lakebranch.reporting.terminal import summary_lines
from pytest_lakebranch.state import ALIVE, State, locked_if_free
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
ROUTES = ("create_branch", "list_endpoints", "generate_database_credential", "update_endpoint", "delete_branch")
PASSING: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429},
    "429-after": {"kind": "status", "status": 429, "retry_after": "1"},
    "503": {"kind": "status", "status": 503},
    "500": {"kind": "status", "status": 500},
    "drop": {"kind": "drop"},
    "half": {"kind": "half"},
    "late": {"kind": "late", "status": 504, "seconds": 0.5},
    "operation": {"kind": "operation", "status": 500},
}
READING = ("list_endpoints", "generate_database_credential")
EVERY = [
    (fault, route)
    for fault in PASSING
    for route in (*ROUTES, "update_branch")
    if fault != "operation" or route not in READING
]
CHOSEN = [
    ("late", "create_branch"),
    ("late", "delete_branch"),
    ("half", "create_branch"),
    ("half", "update_branch"),
    ("500", "list_endpoints"),
    ("drop", "generate_database_credential"),
    ("429", "update_endpoint"),
    ("429-after", "create_branch"),
    ("operation", "create_branch"),
    ("operation", "update_endpoint"),
    ("operation", "delete_branch"),
]
"""What `make test` tries; `make soak` tries every fault at every step."""
LASTING: dict[str, dict[str, Any]] = {
    "403": {"kind": "status", "status": 403, "times": None},
    "400": {"kind": "status", "status": 400, "error_code": "BAD_REQUEST", "times": None},
    "operation": {"kind": "operation", "status": 500, "times": None},
}


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider on the shared emulator, without faults at the end; then nothing may be left."""
    with troubled_cloud(lakebase, tmp_path) as made:
        yield made
    assert poll(lambda: None if ours(lakebase) else True, deadline=Deadline(5)), ours(lakebase)


def life(here: Cloud) -> None:
    """A branch from the beginning to the end, with a fork of its present."""
    compute = here.start("b1")
    assert sql(compute.endpoint, "select count(*) from item") == [(10,)]
    here.resize()
    child = here.start("b2", at=compute.fork_point())
    child.discard()
    compute.discard()


@pytest.mark.parametrize(("fault", "route"), EVERY if "SOAK_LEASES" in os.environ else CHOSEN)
def test_what_passes_is_borne(here: Cloud, fault: str, route: str) -> None:
    """One failure of each call is not noticed; what landed although it failed is adopted."""
    here.emulated.emulator.faults.add({"route": route, **PASSING[fault]})
    life(here)
    here.provider.close()  # branches are deleted in the background
    assert not any(each["met"] == 0 for each in here.emulated.emulator.faults.listed())


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_said(here: Cloud, fault: str) -> None:
    """A create that is refused for good is one error with status, code, request id, and nothing is left."""
    here.emulated.emulator.faults.add({"route": "create_branch", **LASTING[fault]})
    with pytest.raises(LakebranchError, match=r"creating branch|was not there") as caught:
        here.start("b1")
    if fault != "operation":
        assert "Request id" in str(caught.value)


def test_what_could_not_be_deleted_is_said(here: Cloud) -> None:
    """An operation that fails for good leaves its branch, and what that was forked from: the end tells, and soon."""
    parent = here.start("b1")
    child = here.start("b2", at=parent.fork_point())
    here.emulated.emulator.faults.add({"route": "delete_branch", "path": child.path, **LASTING["operation"]})
    child.discard()
    parent.discard()
    with pytest.raises(BaseExceptionGroup) as caught:
        here.provider.close()
    (error,) = caught.value.exceptions
    assert str(error) == f"deleting {child.path}: INTERNAL_ERROR: injected: operation 500."
    assert ours(here.emulated) == sorted(each.path.rpartition("/")[2] for each in (parent, child))
    assert cloud_record.read(here.home) is not None
    here.emulated.emulator.faults.clear()
    here.emulated.clear()


def test_what_could_not_be_resized_is_said(here: Cloud) -> None:
    """At the end, and the branch is used and deleted all the same."""
    here.start("b1")
    here.emulated.emulator.faults.add({"route": "update_endpoint", **LASTING["operation"]})
    here.resize()
    assert poll(lambda: here.provider._branches.troubles or None, deadline=Deadline(10))
    with pytest.raises(BaseExceptionGroup, match="not looked after") as caught:
        here.provider.close()
    assert str(caught.value.exceptions[0]).startswith("not looked after: resizing projects/demo/branches/lakebranch-")


def test_what_leaves_nothing_behind_is_a_remark(here: Cloud) -> None:
    """Of a run: its summary says what was not looked after, and nothing was left behind."""
    engine = here.engine()
    here.start("b1")
    here.emulated.emulator.faults.add({"route": "update_endpoint", **LASTING["operation"]})
    here.resize()
    assert poll(lambda: here.provider._branches.troubles or None, deadline=Deadline(10))
    engine.close()
    summary = engine.summary()
    assert summary.left_behind == ()
    (remark,) = summary.remarks
    assert remark.startswith("not looked after: resizing ")
    assert remark in summary_lines(summary)


def test_why_no_credential_is_given_is_said(here: Cloud) -> None:
    """To who starts a branch, and to a client of one: status, code and request id."""
    compute = here.start("b1")
    compute.door._forget()
    here.emulated.emulator.faults.add({"route": "generate_database_credential", **LASTING["403"]})
    says = r"branch b1 cannot be reached: .*403 PERMISSION_DENIED.*Request id: "
    with pytest.raises(psycopg.OperationalError, match=says):
        sql(compute.endpoint, "select 1")
    with pytest.raises(CloudError, match=r"b2.*lets nobody in.*403 PERMISSION_DENIED.*Request id: ") as caught:
        here.start("b2")
    assert "Does role" not in str(caught.value)


def test_certificates_of_ones_own(lakebase: Emulated, tmp_path: Path) -> None:
    """Those in the file of lakebranch_endpoint_ca are trusted, and no others: that is said at once."""
    lakebase.emulator.authority.write(tmp_path / "ca.pem")
    with cloud(lakebase, tmp_path, endpoint_ca="ca.pem") as here:
        assert sql(here.start("b1").endpoint, "select count(*) from item") == [(10,)]
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with (
        cloud(lakebase, tmp_path, endpoint_ca="other.pem") as here,
        pytest.raises(CloudError, match=r"after [0-3] s: .*certificate verify failed"),
    ):
        here.start("b1")


def test_logins_that_are_refused_for_a_while(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """A new branch that lets nobody in yet is waited for, each time with a fresh token; how long is learnt."""
    emulated = new_emulator(latencies={"login": "1.5"})
    with cloud(emulated, tmp_path) as here:
        here.start("b1")
        first = calls(emulated).count("generate_database_credential")
        assert first > 1
        here.start("b2")
        assert calls(emulated).count("generate_database_credential") < 2 * first
    assert ours(emulated) == []


def test_who_is_never_let_in_is_told_whose_role_is_missing(
    new_emulator: Callable[..., Emulated], tmp_path: Path
) -> None:
    """Nobody is told that of a login that was not refused for it."""
    emulated = new_emulator(latencies={"login": "60"})
    with (
        cloud(emulated, tmp_path, deadline="3s") as here,
        pytest.raises(CloudError, match=r"lets nobody in after \d s: .*\. Does role 'developer@example.com' exist"),
    ):
        here.start("b1")


def test_the_quota_is_learnt(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """A refusal for lack of room waits until there is some; at the deadline it is said."""
    emulated = new_emulator(limits=Limits(branches=3))
    with cloud(emulated, tmp_path, deadline="3s") as here:
        first, _ = here.start("b1"), here.start("b2")
        with pytest.raises(BranchError, match=r"no room .*within 3 s.*limit of 3 branches|QUOTA_EXCEEDED.*limit of 3"):
            here.start("b3")
        first.discard()
        here.start("b4")
    assert ours(emulated) == []


def test_a_ttl_that_is_too_long_is_cut(new_emulator: Callable[..., Emulated], tmp_path: Path) -> None:
    """To what the workspace allows."""
    emulated = new_emulator(limits=Limits(branch_ttl=1000.0))
    with cloud(emulated, tmp_path) as here:
        here.start("b1")
        assert here.provider._branches.ttl <= 1000


def test_the_reaper_takes_what_is_ours_and_dead(lakebase: Emulated, tmp_path: Path) -> None:
    """Not what lives, belongs to others, or has another name, nor what the dead run has kept, for a human or for later
    runs; with --dry-run nothing.
    """
    state = State(tmp_path / "home").ensure()
    with cloud(lakebase, tmp_path, run="reaper") as here:
        project = here.provider._project
        soon, past = time.time() + 86400, time.time() - 86400
        dead, left, template = (Name(project.owner, "0" * 8, tag, soon) for tag in ("b1", "b2", "k012345678001"))
        names = {
            str(dead): True,
            str(left): False,
            str(template): False,
            str(Name(project.owner, "1" * 8, "b1", soon)): False,
            str(Name(owner_of("other@example.com"), "0" * 8, "b1", soon)): False,
            str(Name(owner_of("other@example.com"), "2" * 8, "b1", past)): True,
            "a-branch-of-somebody": False,
        }
        for name in names:
            lakebase.branch(name=name)
        directory = state.runs / "gone"
        directory.mkdir()
        (directory / "alive.lock").touch()
        record = CloudRecord(project.api.client.host, project.api.project, dead.run, project.owner, soon)
        record.keeping(f"{project.api.project}/branches/{left}").write(directory)
        expected = sorted(f"{project.api.project}/branches/{name}" for name, gone in names.items() if gone)
        try:
            assert sorted(reap(project, state, dry_run=True)) == expected
            assert sorted(reap(project, state)) == expected
            assert poll(lambda: None if reap(project, state) else True, deadline=Deadline(10))
            left = {branch.name.rpartition("/")[2] for branch in lakebase.w.postgres.list_branches(lakebase.project)}
            assert {name for name, gone in names.items() if not gone} <= left
        finally:
            for name, gone in names.items():
                if not gone:
                    lakebase.w.postgres.delete_branch(f"{lakebase.project}/branches/{name}", purge=True).wait()


def test_a_run_reaps_beside_its_tests(lakebase: Emulated, tmp_path: Path) -> None:
    """What a dead run left is gone when the run is over."""
    state = State(tmp_path / "home").ensure()
    with cloud(lakebase, tmp_path, run="living") as here:
        project, soon = here.provider._project, time.time() + 86400
        lakebase.branch(name=str(Name(project.owner, "0" * 8, "b1", soon)))
        directory = state.runs / "gone"
        directory.mkdir()
        (directory / ALIVE).touch()
        CloudRecord(project.api.client.host, project.api.project, "0" * 8, project.owner, soon).write(directory)
        here.provider.reap(state)
        here.start("b1")
    assert ours(lakebase) == []
    assert cloud_record.read(directory) is None


def test_the_reaper_takes_all_of_an_owner(lakebase: Emulated, tmp_path: Path) -> None:
    """Wherever it was made, but what a run has that lives on this machine; and nothing on another behalf."""
    state = State(tmp_path / "home").ensure()
    with cloud(lakebase, tmp_path, run="reaper", owner="pr-17") as here:
        project, soon = here.provider._project, time.time() + 86400
        gone, lives = (str(Name(project.owner, digit * 8, "b1", soon)) for digit in "01")
        other = str(Name(owner_of(project.identity, "pr-18"), "0" * 8, "b1", soon))
        directory = state.runs / "living"
        directory.mkdir()
        (directory / ALIVE).touch()
        CloudRecord(project.api.client.host, project.api.project, "1" * 8, project.owner, soon).write(directory)
        for name in (gone, lives, other):
            lakebase.branch(name=name)
        try:
            with locked_if_free(directory / ALIVE):
                found = reap(project, state, owned=True)
            assert found == [f"{project.api.project}/branches/{gone}"]
        finally:
            for name in (lives, other):
                lakebase.w.postgres.delete_branch(f"{lakebase.project}/branches/{name}", purge=True).wait()


def test_the_source_is_never_changed(here: Cloud, lakebase: Emulated) -> None:
    """What is the default branch, foreign, another owner's, or protected is refused before any call; it is no reason
    not to fork a source.
    """
    project, protected = here.provider._project, Branch(spec=BranchSpec(is_protected=True))
    lakebase.done(lakebase.w.postgres.update_branch(lakebase.production, protected, FieldMask(["spec.is_protected"])))
    theirs = Name(owner_of("other@example.com"), "2" * 8, "b1", time.time() + 86400)
    before = len(calls(lakebase))
    for path in (
        lakebase.production,
        f"{lakebase.project}/branches/somebodys",
        f"{lakebase.project}/branches/{theirs}",
    ):
        for change in (
            lambda path: project.api.delete(path, Deadline(5)),
            lambda path: project.api.make_small(f"{path}/endpoints/primary", Deadline(5)),
            lambda path: project.api.set_expiration(path, {"ttl": "60s"}, Deadline(5)),
        ):
            with pytest.raises(BranchError, match=f"{path} is not touched: (its name is none|it belongs to)"):
                change(path)
    own = f"{lakebase.project}/branches/{Name(project.owner, project.run, 'b7', time.time())}"
    with pytest.raises(BranchError, match="it is protected"):
        project.api.delete(own, Deadline(5), status={"is_protected": True})
    assert len(calls(lakebase)) == before
    life(here)
    open_ = Branch(spec=BranchSpec(is_protected=False))
    lakebase.done(lakebase.w.postgres.update_branch(lakebase.production, open_, FieldMask(["spec.is_protected"])))


def test_generations_are_swept_from_the_youngest(lakebase: Emulated, tmp_path: Path) -> None:
    """A parent cannot go before its children, however many generations there are."""
    with cloud(lakebase, tmp_path, run="sweeper") as here:
        project = here.provider._project
        source = lakebase.production
        for number in range(3):
            made = Name(project.owner, project.run, f"b{number}", time.time() + 86400)
            source = lakebase.branch(source=source, name=str(made)).name
        assert len(project.sweep(project.branches(), lambda name, _: name.run == project.run)) == 3
    assert poll(lambda: None if ours(lakebase) else True, deadline=Deadline(10))


@pytest.mark.parametrize(
    ("environ", "options", "says"),
    [
        ({"DATABRICKS_TOKEN": "dapi-wrong"}, {}, "401 .*DATABRICKS_TOKEN"),
        ({}, {"source": "projects/none"}, "404 NOT_FOUND: project id not found.*lakebranch_source"),
        ({}, {"source": "projects/demo/branches/none"}, "404 NOT_FOUND: branch id not found"),
        ({}, {"source": "shop"}, "lakebranch_source is of the form"),
        ({"DATABRICKS_CLIENT_ID": "x", "DATABRICKS_CLIENT_SECRET": "y"}, {}, "more than one way"),
        ({"DATABRICKS_HOST": "http://example.com"}, {}, "not encrypted"),
    ],
    ids=["token", "project", "branch", "source", "two-methods", "clear-text"],
)
def test_wrong_settings_are_said(
    lakebase: Emulated, tmp_path: Path, environ: dict[str, str], options: dict[str, str], says: str
) -> None:
    """Once, with what to do."""
    from lakebase_rigs import environ as login

    from pytest_lakebranch.config import resolve

    given = {"provider": "lakebase", "source": lakebase.project, **options}
    settings = resolve(options=given, environ={}, ini={}, root=tmp_path)
    with pytest.raises(LakebranchError, match=says):
        open_project(settings, "x", {**login(lakebase), **environ})


def test_who_may_not_make_branches_is_told(lakebase: Emulated, tmp_path: Path) -> None:
    """403, and which permission is missing."""
    viewer = lakebase.emulator.options.identities[2]
    with (
        cloud(lakebase, tmp_path, login={"DATABRICKS_TOKEN": str(viewer.token)}) as here,
        pytest.raises(CloudError, match=r"403 PERMISSION_DENIED.*CAN MANAGE"),
    ):
        here.start("b1")


def test_service_principals_log_in(lakebase: Emulated, tmp_path: Path) -> None:
    """By client id and secret."""
    with cloud(lakebase, tmp_path, login=machine(lakebase)) as here:
        assert here.provider._project.identity == lakebase.emulator.options.identities[1].name


def test_nothing_is_known_of_a_fork_point_that_is_none(here: Cloud) -> None:
    """A branch that does not exist cannot be forked."""
    with pytest.raises(CloudError, match="branch id not found"):
        here.provider.start("b1", ForkPoint("x", f"{here.emulated.project}/branches/none"))
