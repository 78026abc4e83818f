"""``lakebranch config``: each setting, its value, and where it comes from."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.cli import arguments, output

if TYPE_CHECKING:
    from pytest_lakebranch.cli.project import Project
    from pytest_lakebranch.config import Row


def declare(commands: arguments.Commands) -> None:
    """Declare the command."""
    made = arguments.command(commands, "config", "show each setting as the next pytest run in this directory sees it")
    made.set_defaults(act=run)


def run(parsed: Namespace) -> int:
    """Print the settings."""
    from pytest_lakebranch.cli.project import project
    from pytest_lakebranch.config import TABLE

    found = project(parsed)
    settings = [_fact(found, row) for row in TABLE]
    file = None if found.file is None else str(found.file)
    facts = {"root": found.settings.root, "file": file, "settings": settings}
    rows = [(fact["name"], _shown(fact["value"]), fact["where"] or "default") for fact in settings]
    heads = output.table(("SETTING", "VALUE", "FROM"), rows)
    output.show(parsed, facts, [*heads, "", f"root directory: {found.settings.root}", f"ini file: {file or 'none'}"])
    return 0


def _fact(found: Project, row: Row) -> dict[str, Any]:
    """``source`` is the kind of place, ``where`` the place itself; both tell of nothing set as ``default`` and null."""
    given = found.settings.sources.get(row.name)
    value = getattr(found.settings, row.name) if given or row.name != "home" else str(found.state.home)
    source, where = "default", None
    if given == row.env:
        source, where = "environment", row.env
    elif given == row.flag:
        source, where = "option", row.flag if row.name == "home" else f"{row.flag} in addopts"
    elif given is not None:
        source, where = "ini", f"{row.ini} in {found.file}"
    return {"name": row.name, "value": value, "source": source, "where": where}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
