"""The schemas that ``lakebranch diff`` and ``lakebranch schema`` are about: found by what a user calls them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pytest_lakebranch.cli import building
from pytest_lakebranch.cli.open import check_version, opened
from pytest_lakebranch.cli.project import Project
from pytest_lakebranch.cli.target import BASE, find
from pytest_lakebranch.config import Settings
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema import elsewhere
from pytest_lakebranch.schema.catalog import read
from pytest_lakebranch.schema.model import Schema
from pytest_lakebranch.state import State
from pytest_lakebranch.steps.kinds import parse_all
from pytest_lakebranch.steps.source import before_migrations

SOURCE = "source"
FILE = ".json"


def is_foreign(wanted: str) -> bool:
    """Whether it is a server elsewhere or a file, whose owners may be roles that are called otherwise here."""
    return wanted.startswith(elsewhere.VARIABLE) or wanted.endswith(FILE)


def schema_of(wanted: str, *, project: Project, state: State) -> Schema:
    """The schema that ``wanted`` names. Raises LakebranchError."""
    found = elsewhere.named(wanted, root=Path(project.settings.root), home=state.home)
    if found is not None:
        return found
    path = Path(wanted)
    return elsewhere.of_file(path) if path.suffix == FILE else _of_branch(wanted, project, state)


def _of_branch(wanted: str, project: Project, state: State) -> Schema:
    if wanted in (BASE, SOURCE):
        settings = project.settings if wanted == BASE else _before_migrations(project.settings)
        project, wanted = Project(settings, project.file), building.ensure(settings, state)[0]
    target = find(wanted, project=project, state=state)
    check_version(target.sealed, target.settings)
    with opened(target, target.settings, state) as endpoint, closing(connect(endpoint, autocommit=True)) as connection:
        return read(connection)


def _before_migrations(settings: Settings) -> Settings:
    steps = parse_all(settings.base, settings)
    return settings._replace(base=settings.base[: before_migrations(steps)])
