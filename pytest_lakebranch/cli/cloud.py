"""What ``reap``, ``ls``, ``open`` and ``doctor`` do with ``--provider lakebase``."""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.cli import output

if TYPE_CHECKING:
    from pytest_lakebranch.model import Endpoint
    from pytest_lakebranch.providers.lakebase.project import Project


def reap(parsed: Namespace) -> int:
    """Delete, or name, what dead runs left in the project; with an owner, all that it has there."""
    from pytest_lakebranch.branches.reaper import left_in_cloud
    from pytest_lakebranch.cli.project import state
    from pytest_lakebranch.host.choice import reap_cloud

    settings = _settings(parsed)
    if parsed.owner is not None:
        settings = settings._replace(owner=parsed.owner)
    found = reap_cloud(settings, state(parsed), dry_run=parsed.dry_run, owned=parsed.owner is not None)
    word = "would delete" if parsed.dry_run else "deleted"
    lines = [f"{word} {path}" for path in found] or ["nothing was left behind"]
    left = {} if parsed.dry_run else left_in_cloud(state(parsed))
    lines += [f"left as it is: {name}: {why}" for name, why in left.items()]
    output.show(parsed, {"dry_run": parsed.dry_run, "branches": found, "left": left}, lines)
    return 1 if left else 0


def list_branches(parsed: Namespace) -> int:
    """List the branches that pytest-lakebranch made in the project, by whomever."""
    with _project(parsed) as project:
        facts = [fact for view in project.api.branches() if (fact := _fact(view, project)) is not None]
    rows = [(fact["branch"], fact["owner"], fact["run"], fact["state"], _when(fact)) for fact in facts]
    heads = ("BRANCH", "OWNER", "RUN", "STATE", "ENDS IN")
    lines = output.table(heads, rows) if rows else ["no branches of ours"]
    output.show(parsed, {"project": project.api.project, "branches": facts}, lines)
    return 0


def _fact(view: dict[str, Any], project: Project) -> dict[str, Any] | None:
    from pytest_lakebranch.providers.lakebase.names import is_same, parse

    status, path = view.get("status") or {}, str(view.get("name", ""))
    name = parse(path.rpartition("/")[2])
    if name is None:
        return None
    expires = status.get("expire_time")
    return {
        "branch": path.rpartition("/")[2],
        "tag": name.word,
        "owner": f"{name.owner} (we)" if is_same(name.owner, project.owner) else name.owner,
        "run": name.run,
        "state": status.get("current_state"),
        "expires": expires,
        "ends": datetime.fromisoformat(expires).timestamp() if expires else name.dies,
    }


def _when(fact: dict[str, Any]) -> str:
    left = fact["ends"] - time.time()
    return output.age(left) if left > 0 else "over: `lakebranch reap`"


@contextmanager
def opened(parsed: Namespace) -> Iterator[tuple[Endpoint, str]]:
    """The branch ``parsed.target`` itself, for reading only, behind a socket that lasts as long as the block."""
    from pytest_lakebranch.errors import BranchError
    from pytest_lakebranch.postgres.forwarder import Forwarder, listen_in
    from pytest_lakebranch.providers.lakebase.upstream import Door
    from pytest_lakebranch.state import PORT, sockets_root
    from pytest_lakebranch.waiting import Deadline

    with _project(parsed) as project, tempfile.TemporaryDirectory(prefix="o", dir=sockets_root()) as directory:
        path = _found(parsed.target, project)
        host = project.api.host_of(path, Deadline(30))
        if host is None:
            raise BranchError(f"{path} has no endpoint that can be connected to.")
        settings = project.settings
        door = Door(
            host.host,
            settings.endpoint_port,
            project.identity,
            lambda deadline: project.api.credential(host.endpoint, deadline),
            authorities=project.authorities,
            stands_for=project.stands_for,
            always={"options": "-c default_transaction_read_only=on"},
        )
        forwarder = Forwarder(listen_in(Path(directory)), door, name=path)
        forwarder.open()
        try:
            yield _endpoint(directory, PORT, project), path
        finally:
            forwarder.close()


def _endpoint(directory: str, port: int, project: Project) -> Endpoint:
    from pytest_lakebranch.model import Endpoint

    return Endpoint(directory, port, project.user, project.database)


def _found(wanted: str, project: Project) -> str:
    """The path of a branch of ours, by its id, or by the end of RUN/TAG; raises BranchError."""
    from pytest_lakebranch.errors import BranchError

    facts = [fact for view in project.api.branches() if (fact := _fact(view, project)) is not None]
    run, _, tag = wanted.rpartition("/")
    fits = [
        fact["branch"]
        for fact in facts
        if wanted == fact["branch"] or (tag == fact["tag"] and str(fact["run"]).startswith(run))
    ]
    if len(fits) == 1:
        return f"{project.api.project}/branches/{fits[0]}"
    known = ", ".join(fits or [fact["branch"] for fact in facts][:8]) or "none"
    which = "fits more than one branch" if fits else "is no branch of ours"
    raise BranchError(f"{wanted!r} {which} in {project.api.project}: {known}. `lakebranch ls --provider lakebase`.")


def doctor(parsed: Namespace) -> int:
    """Say who we are, what the project allows, and whether tests could run."""
    from pytest_lakebranch.errors import LakebranchError

    facts: dict[str, Any] = {"ok": False, "problems": []}
    try:
        with _project(parsed) as project:
            branches = list(project.api.branches())
            ours = [view for view in branches if _fact(view, project) is not None]
            facts |= {
                "host": project.api.client.host,
                "identity": project.identity,
                "source": project.source,
                "postgres": project.facts.postgres,
                "branches": len(branches),
                "ours": len(ours),
                "ok": True,
            }
    except LakebranchError as error:
        facts["problems"] = [str(error)]
    output.show(parsed, facts, _said(facts))
    return 0 if facts["ok"] else 1


def _said(facts: dict[str, Any]) -> Iterator[str]:
    for name in ("host", "identity", "source", "postgres", "branches", "ours"):
        if name in facts:
            yield f"{name:10} {facts[name]}"
    yield from (f"\nDOES NOT WORK: {problem}" for problem in facts["problems"])


def _settings(parsed: Namespace) -> Any:
    from pytest_lakebranch.cli.project import project

    return project(parsed).settings._replace(provider=parsed.provider)


@contextmanager
def _project(parsed: Namespace) -> Iterator[Project]:
    from pytest_lakebranch.providers.lakebase.project import open_project

    made = open_project(_settings(parsed), "command")
    try:
        yield made
    finally:
        made.close()
