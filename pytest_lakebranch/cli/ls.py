"""``lakebranch ls``: runs and branches, those that live and those that were left behind."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_lakebranch import amounts
from pytest_lakebranch.cli import arguments, output

if TYPE_CHECKING:
    from pytest_lakebranch.host.census import BranchFacts, RunFacts

PATIENCE = 0.02
"""Seconds for which sizes are measured unless all are asked for."""


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "ls", "list runs and their branches: running, left behind, kept")
    made.add_argument("--sizes", action="store_true", help="measure every branch, however long that takes")
    arguments.provider(made)
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Print the list."""
    if parsed.provider != "local":
        from pytest_lakebranch.cli import cloud

        return cloud.list_branches(parsed)
    from pytest_lakebranch.cli.project import state
    from pytest_lakebranch.host.census import runs

    found = state(parsed)
    listed = runs(found)
    sizes = _sizes([branch for one in listed for branch in one.branches], patience=None if parsed.sizes else PATIENCE)
    facts = [_run_fact(one, sizes) for one in listed]
    output.show(parsed, {"home": str(found.home), "runs": facts}, _lines(facts))
    return 0


def _sizes(branches: Sequence[BranchFacts], *, patience: float | None) -> dict[str, int]:
    """Bytes by directory, as far as there was time."""
    from pytest_lakebranch.directories import occupied
    from pytest_lakebranch.waiting import Deadline

    deadline = None if patience is None else Deadline(patience)
    measured = {str(branch.directory): branch.kept.bytes for branch in branches if branch.kept is not None}
    for branch in branches:
        if branch.kept is not None:
            continue
        if deadline is not None and deadline.passed:
            break
        measured[str(branch.directory)] = occupied(branch.directory)
    return measured


def _run_fact(one: RunFacts, sizes: dict[str, int]) -> dict[str, Any]:
    return {
        "run": one.name,
        "state": one.standing,
        "began": one.began,
        "root": one.root,
        "branches": [_branch_fact(branch, sizes) for branch in one.branches],
    }


def _branch_fact(branch: BranchFacts, sizes: dict[str, int]) -> dict[str, Any]:
    lease, kept = branch.lease, branch.kept
    holder = kept or lease
    return {
        "branch": branch.file.name,
        "state": "kept" if kept else "leased" if lease else "spare",
        "test": None if holder is None else holder.test,
        "worker": None if holder is None else holder.worker,
        "purpose": "test" if kept else lease.purpose if lease else None,
        "kept_until": None if kept is None else kept.until,
        "storage": branch.file.rung,
        "bytes": sizes.get(str(branch.directory)),
        "made": branch.file.made,
        "directory": str(branch.directory),
    }


def _lines(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not runs:
        yield "no runs"
        return
    rows = [row for one in runs for row in _rows(one)]
    yield from output.table(("RUN", "BRANCH", "STATE", ">SIZE", ">AGE", "HELD BY"), rows)
    if any(one["state"] == "left behind" for one in runs):
        yield "\nwhat was left behind goes with the next run, or with `lakebranch reap`"
    if any(branch["bytes"] is None for one in runs for branch in one["branches"]):
        yield "\nnot all sizes were measured: `lakebranch ls --sizes`"


def _rows(one: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    now = time.time()
    sizes = [branch["bytes"] for branch in one["branches"]]
    total = None if None in sizes else sum(sizes)
    name = one["run"][:12]
    count = amounts.many(len(sizes), "branch")
    yield name, count, one["state"], output.size(total), output.age(now - one["began"]), one["root"] or ""
    for branch in one["branches"]:
        where = f"{branch['test']} ({branch['worker']})" if branch["test"] else ""
        if branch["kept_until"] is not None:
            where += f", for {output.age(branch['kept_until'] - now)} more"
        age = output.age(now - branch["made"])
        yield "", branch["branch"], branch["state"], output.size(branch["bytes"]), age, where
