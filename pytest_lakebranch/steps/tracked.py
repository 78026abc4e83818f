"""A step whose migrations a tool knows that runs in a process of its own, and that keeps book in the database."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.steps import files
from pytest_lakebranch.steps.base import Unit, Workplace
from pytest_lakebranch.steps.notes import Note
from pytest_lakebranch.steps.toolbox import Kit, Toolbox


@dataclass(slots=True)
class TrackedMigration:
    """One of them; ``facts`` is what the tool said of it."""

    step: TrackedStep
    facts: dict[str, Any]
    content: str

    @property
    def label(self) -> str:
        """The step's label and the revision."""
        return f"{self.step.label} {self.revision}"

    @property
    def revision(self) -> str:
        """The tool's name for it."""
        return str(self.facts["revision"])

    @property
    def name(self) -> str:
        """What a person calls it."""
        return str(self.facts["name"])

    @property
    def source(self) -> Path:
        """The file it is written in."""
        return Path(self.facts["path"])

    @property
    def reversible(self) -> bool:
        """Whether the tool can roll it back."""
        return bool(self.facts["reversible"])

    def fingerprint(self) -> str:
        """Of the file's content, of what all migrations of the tool depend on, and of the declared inputs."""
        return self.content

    def apply(self, place: Workplace) -> str:
        """Have the tool apply it; one that the database's book has already is left out."""
        return self.step.ask(place, "apply", revisions=[self.revision])

    def rollback(self, place: Workplace) -> str:
        """Have the tool undo it."""
        if not self.reversible:
            raise BaseError(f"{self.label} is declared irreversible in {files.shown(self.source, place.root)}.")
        return self.step.ask(place, "rollback", revision=self.revision)


@dataclass(slots=True)
class TrackedStep:
    """See Divided. ``target`` is where the migrations lead to, in the tool's words; empty for the only end."""

    label: str
    kit: Kit
    target: str
    inputs: files.Inputs
    toolbox: Toolbox = field(init=False)

    def __post_init__(self) -> None:
        self.toolbox = Toolbox(self.kit, self.inputs)

    def units(self) -> Sequence[Unit]:
        """The migrations, as the tool orders them; asked of it again only when one of its files has changed."""
        note = self.plan()
        always = [note.digests.get(path, "") for path in note.value["common"]]
        common = [*always, *self.kit.versions(), "inputs", *self.inputs.digests()]
        kind = self.label.partition(":")[0]
        return [
            TrackedMigration(
                self, facts, files.fingerprint(kind, [facts["revision"], note.digests[facts["path"]], *common])
            )
            for facts in note.value["revisions"]
        ]

    def plan(self) -> Note:
        """What the tool says of its migrations, in an order in which those that were seen first come first.

        So a new one comes last, wherever the tool would put it, as it does in a database that has lived for a while.
        """
        key = f"{self.kit} {self.kit.versions()} {sys.prefix} {self.target} {self.inputs.root}"
        return self.inputs.notes.remember(key, lambda: self._ask_for_plan(self.inputs.notes.last(key)))

    def _ask_for_plan(self, before: Any) -> tuple[Any, list[Path], list[str]]:
        value = self.toolbox.ask("plan", target=self.target)
        paths = [Path(path) for path in (*value.pop("watched"), *value["common"])]
        found = [facts["revision"] for facts in value["revisions"]]
        value["seen"] = list(dict.fromkeys([*(before or {}).get("seen", []), *found]))
        value["revisions"] = ordered(value["revisions"], value["seen"])
        ours = self.inputs.application.names
        return value, paths, [name for name in value.pop("variables", []) if name not in ours]

    def fingerprint(self) -> str:
        """Of all units, in their order."""
        return files.fingerprint("tracked", [unit.fingerprint() for unit in self.units()])

    def apply(self, place: Workplace) -> str:
        """Apply all."""
        return self.apply_units(0, len(self.units()), place)

    def apply_units(self, first: int, count: int, place: Workplace) -> str:
        """Have the tool apply some in one go."""
        revisions = [facts["revision"] for facts in self.plan().value["revisions"][first : first + count]]
        return self.ask(place, "apply", revisions=revisions)

    def ask(self, place: Workplace, call: str, **arguments: Any) -> str:
        """Have the tool do something in the database of ``place``."""
        done = self.toolbox.ask(call, place=place, **arguments)
        return f"{done} migration{'' if done == 1 else 's'}"

    def open(self) -> AbstractContextManager[None]:
        """Keep the tool's process."""
        return self.toolbox.open()


def ordered(revisions: list[dict[str, Any]], seen: list[str]) -> list[dict[str, Any]]:
    """The revisions, each behind those it comes ``after``, and otherwise in the order of ``seen``."""
    place = {name: number for number, name in enumerate(seen)}
    facts = {place[one["revision"]]: one for one in revisions}
    waiting = {
        number: {place[name] for name in one["after"] if place.get(name) in facts} for number, one in facts.items()
    }
    ready = [number for number, others in waiting.items() if not others]
    heapify(ready)
    order: list[dict[str, Any]] = []
    while ready:
        done = heappop(ready)
        order.append(facts[done])
        for number, others in waiting.items():
            if done in others:
                others.remove(done)
                if not others:
                    heappush(ready, number)
    return order
