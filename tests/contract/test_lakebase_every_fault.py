"""Every call of the Lakebase provider failing in every way, at every step of a branch's life: borne, or said once with
all that is known, and nothing is left. ``make soak``, but for a few; with ``-s`` it prints what came of each.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from emulator_rigs import Emulated
from lakebase_rigs import Cloud, calls, environ, ours, sql, troubled_cloud

from pytest_lakebranch.config import resolve
from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.providers.lakebase.names import parse
from pytest_lakebranch.providers.lakebase.project import open_project
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["emulator_fixtures"]
KEY = "fedcba9876543210"
OPENING = ("get_project", "get_branch")
MET = {
    "create_branch": 4,
    "list_endpoints": 4,
    "generate_database_credential": 4,
    "update_endpoint": 1,
    "update_branch": 3,
    "get_operation": 5,
    "delete_branch": 2,
    "list_branches": 1,
}
"""The calls of :func:`life`, and how often each is made at least."""
CHANGING = ("create_branch", "update_branch", "delete_branch", "update_endpoint")
PASSING: dict[str, dict[str, Any]] = {
    "429": {"kind": "status", "status": 429},
    "429-after": {"kind": "status", "status": 429, "retry_after": "1"},
    "503": {"kind": "status", "status": 503},
    "500": {"kind": "status", "status": 500},
    "drop": {"kind": "drop"},
    "half": {"kind": "half"},
    "late": {"kind": "late", "status": 504, "seconds": 0.5},
    "reconciliation": {"kind": "reconciliation"},
    "conflict": {"kind": "conflict"},
    "operation": {"kind": "operation", "status": 500},
}
LASTING: dict[str, dict[str, Any]] = {
    "400": {"kind": "status", "status": 400},
    "401": {"kind": "status", "status": 401},
    "403": {"kind": "status", "status": 403},
    "404": {"kind": "status", "status": 404},
    "503": {"kind": "status", "status": 503},
    "drop": {"kind": "drop"},
    "operation": {"kind": "operation", "status": 500},
}
ONCE = [
    (fault, route, after)
    for route, times in MET.items()
    for after in range(times)
    for fault in PASSING
    if fault != "operation" or route in CHANGING
]
EVER = [
    (fault, route, after)
    for route, times in MET.items()
    for after in range(min(times, 2))
    for fault in LASTING
    if fault != "operation" or route in CHANGING
]


def mostly_soak(cases: list[tuple[str, str, int]], *others: tuple[str, str, int]) -> list[Any]:
    """The cases as parameters; `make test` tries the others."""
    return [pytest.param(*case, marks=() if case in others else pytest.mark.soak) for case in cases]


@pytest.fixture
def here(lakebase: Emulated, tmp_path: Path) -> Iterator[Cloud]:
    """A provider with little patience, which the tests close themselves."""
    with contextlib.suppress(BaseExceptionGroup), troubled_cloud(lakebase, tmp_path, deadline="4s") as made:
        made.provider._project.api.patience = 4.0
        yield made
    lakebase.clear()


def life(here: Cloud) -> str:
    """A template, a branch of it, a fork of that one's present, and a branch that is kept: its path."""
    build = here.provider.build("b0", None, key=KEY)
    sql(build.endpoint, "create table made (id int); insert into made values (1)")
    at = here.provider.seal(build, KEY)
    compute = here.provider.start("b1", at)
    compute.mark()
    here.resize()
    assert sql(compute.endpoint, "insert into made values (2)", "select count(*) from made") == [(2,)]
    child = here.provider.start("b2", compute.fork_point())
    assert sql(child.endpoint, "select count(*) from made") == [(2,)]
    child.discard()
    compute.discard()
    keeps = here.provider.start("b3", at)
    now = time.time()
    keeps.keep(Kept("run", "b3", "test_x", "gw0", "failed", "/", now, now + 7200, {}))
    return keeps.path.rpartition("/")[2]  # type: ignore[attr-defined]


def closed(here: Cloud) -> str:
    """End the run; what it says of what was not done."""
    try:
        here.provider.close()
    except BaseExceptionGroup as group:
        return "; ".join(map(str, group.exceptions))
    return ""


def rest(here: Cloud, kept: str) -> list[str]:
    """What is there but what was kept, and the template that it comes from."""
    return [name for name in ours(here.emulated) if name != kept and not (kept and parse(name).tag[0] == "t")]  # type: ignore[union-attr]


def assert_left(here: Cloud, kept: str) -> None:
    """What was kept, with an end, and the template that it comes from, whose end is in its name; all else goes."""
    assert poll(lambda: None if rest(here, kept) else True, deadline=Deadline(10)), rest(here, kept)
    if kept:
        status = here.emulated.w.postgres.get_branch(f"{here.emulated.project}/branches/{kept}").status
        assert status is not None
        assert status.expire_time is not None


@pytest.mark.parametrize(
    ("fault", "route", "after"), mostly_soak(ONCE, ("operation", "delete_branch", 0), ("drop", "get_operation", 1))
)
def test_what_passes_is_borne(here: Cloud, fault: str, route: str, after: int) -> None:
    """One failure of any call is noticed by nobody; what landed although it failed is adopted."""
    here.emulated.emulator.faults.add({"route": route, "after": after, **PASSING[fault]})
    kept = life(here)
    assert closed(here) == ""
    assert [each["met"] for each in here.emulated.emulator.faults.listed()] == [1]
    assert_left(here, kept)


@pytest.mark.parametrize(("fault", "route", "after"), mostly_soak(EVER, ("403", "update_branch", 0)))
def test_what_lasts_is_said(here: Cloud, fault: str, route: str, after: int) -> None:
    """Once, with status and what to do; when it is over, what could not be deleted goes with the next sweep."""
    here.emulated.emulator.faults.add({"route": route, "after": after, "times": None, **LASTING[fault]})
    kept, said = "", ""
    try:
        kept = life(here)
    except (LakebranchError, psycopg.OperationalError) as error:
        said = f"{type(error).__name__}: {error}"
    end = closed(here)
    print(f"{fault:12} {route:30} {after}: {said or 'borne'}{f' | at the end: {end}' if end else ''}")
    assert here.emulated.emulator.faults.listed()[0]["met"]
    assert "Traceback" not in said + end
    if fault.isdigit() and fault != "404":
        assert fault in said + end
    assert end or not rest(here, kept)
    here.emulated.emulator.faults.clear()
    project = open_project(here.settings, "run", environ(here.emulated))
    try:
        project.sweep(
            project.branches(), lambda name, view: name.run == project.run and not view["name"].endswith(kept or "?")
        )
    finally:
        project.close()
    assert_left(here, kept)


@pytest.mark.soak
@pytest.mark.parametrize("route", OPENING)
@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault != "operation"])
def test_opening_bears_it(lakebase: Emulated, tmp_path: Path, fault: str, route: str) -> None:
    """The calls with which a run begins."""
    settings = resolve(options={"provider": "lakebase", "source": lakebase.project}, environ={}, ini={}, root=tmp_path)
    lakebase.emulator.faults.add({"route": route, **PASSING[fault]})
    before = len(calls(lakebase))
    try:
        open_project(settings, "x", environ(lakebase)).close()
        assert [each["met"] for each in lakebase.emulator.faults.listed()] == [1]
        assert len(calls(lakebase)) > before
    finally:
        lakebase.emulator.faults.clear()
