"""``lakebranch doctor``: what was found, how branches are stored and why, what they cost, what would help."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from pytest_lakebranch.cli import arguments, output


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "doctor", "say what was found, what branches cost here, and what would help")
    arguments.provider(made)
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Examine and print; the exit code says whether tests could run."""
    if parsed.provider != "local":
        from pytest_lakebranch.cli import cloud

        return cloud.doctor(parsed)
    from dataclasses import asdict

    from pytest_lakebranch.cli.examination import examine
    from pytest_lakebranch.cli.project import project

    found = examine(project(parsed))
    facts = asdict(found)
    output.show(parsed, {"ok": not found.problems, **facts}, _lines(facts))
    return 1 if found.problems else 0


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    for name, value in _found(facts):
        yield f"{name:17} {value}"
    for rung in facts["rungs"]:
        mark = "*" if rung["chosen"] else " "
        yield f"{'storage' if rung is facts['rungs'][0] else '':15} {mark} {rung['rung']:9} {rung['says']}"
    if facts["measured"]:
        yield f"{'measured':17} {_measured(facts['measured'])}"
    for problem in facts["problems"]:
        yield f"\nDOES NOT WORK: {problem}"
    yield from _advice(facts)


def _found(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    postgres, state = facts["postgres"], facts["state"]
    yield "pytest-lakebranch", f"{facts['lakebranch']}, Python {facts['python']}, {facts['system']}"
    if postgres:
        yield "PostgreSQL", f"{postgres['version']} ({postgres['origin']}), {postgres['directory']}"
    if facts["user_namespaces"] is not None:
        yield "user namespaces", "allowed" if facts["user_namespaces"] else "not allowed"
    if state:
        free = output.size(state["free_bytes"])
        yield "state directory", f"{state['directory']} ({state['source']}): {state['file_system']}, {free} free"
    if facts["sockets"]:
        yield "sockets", facts["sockets"]


def _measured(measured: dict[str, Any]) -> str:
    return (
        f"an empty base built in {measured['build_seconds']:.1f} s; a branch of it made, started and connected to in "
        f"{measured['start_ms']:.0f} ms, of which its files take {measured['clone_ms']:.1f} ms (medians of "
        f"{measured['branches']}), gone in {measured['stop_ms']:.0f} ms"
    )


def _advice(facts: dict[str, Any]) -> Iterator[str]:
    for number, one in enumerate(facts["advice"]):
        yield f"\n{'What would be quicker: ' if not number else 'Or: '}{one['why']}"
        yield from (f"    {command}" for command in one["commands"])
