"""``alembic:alembic.ini`` or ``alembic:alembic.ini@REVISION``: the revisions of an Alembic project."""

from __future__ import annotations

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps import files
from pytest_lakebranch.steps.modules import require
from pytest_lakebranch.steps.toolbox import Kit
from pytest_lakebranch.steps.tracked import TrackedStep


def parse(label: str, written: str, inputs: files.Inputs) -> TrackedStep:
    """The step for ``alembic:written``; ConfigError when there is no such file, or no Alembic."""
    ini, _, revision = written.partition("@")
    path = files.existing(label, ini, inputs.root)
    if path.is_dir():
        near = f" Did you mean {ini.rstrip('/')}/alembic.ini?" if (path / "alembic.ini").is_file() else ""
        raise ConfigError(f"{label}: {path} is a folder, not an alembic.ini.{near}")
    require("alembic", extra="alembic", label=label)
    kit = Kit("pytest_lakebranch.steps.tools.alembic_tool", {"ini": str(path)}, path.parent, ("alembic", "sqlalchemy"))
    return TrackedStep(label, kit, revision, inputs)
