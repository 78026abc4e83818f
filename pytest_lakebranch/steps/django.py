"""``django:project.settings``: the migrations of a Django project, as ``python manage.py migrate`` would apply them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps import files, modules
from pytest_lakebranch.steps.base import Unit, Workplace
from pytest_lakebranch.steps.toolbox import Kit
from pytest_lakebranch.steps.tracked import TrackedStep

LAST = "after"
"""See tools.django_tool."""


@dataclass(slots=True)
class AfterMigrations:
    """What follows the last migration: tables of applications without migrations, and handlers of post_migrate."""

    step: DjangoStep
    content: str

    @property
    def label(self) -> str:
        """The step's label and what this is."""
        return f"{self.step.label} post_migrate"

    def fingerprint(self) -> str:
        """Of the files in which the handlers and the models without migrations are written."""
        return self.content

    def apply(self, place: Workplace) -> str:
        """Have Django do it."""
        return self.step.ask(place, "apply", revisions=[LAST])


class DjangoStep(TrackedStep):
    """A tracked step with one more unit at its end."""

    __slots__ = ()

    def units(self) -> Sequence[Unit]:
        """The migrations, and what follows the last."""
        note = self.plan()
        last = [note.digests[path] for path in note.value["last"]]
        return [*TrackedStep.units(self), AfterMigrations(self, files.fingerprint("django", [LAST, *last]))]

    def apply_units(self, first: int, count: int, place: Workplace) -> str:
        """Have Django apply some in one go."""
        revisions: list[Any] = [*(facts["revision"] for facts in self.plan().value["revisions"]), LAST]
        return self.ask(place, "apply", revisions=revisions[first : first + count])


def parse(label: str, written: str, inputs: files.Inputs) -> DjangoStep:
    """The step for ``django:written``; ConfigError when there is no such module, or no Django."""
    if not all(part.isidentifier() for part in written.split(".")):
        raise ConfigError(f"{label}: {written!r} is not the name of a settings module, such as project.settings.")
    modules.source_of(written, root=inputs.root, label=label)
    modules.require("django", extra="django", label=label)
    kit = Kit("pytest_lakebranch.steps.tools.django_tool", {"settings": written}, inputs.root, ("django",))
    return DjangoStep(label, kit, "", inputs)
