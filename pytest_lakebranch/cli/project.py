"""The settings of the present directory: what the next pytest run here would see."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pytest_lakebranch.cli.ini import IniFile, Values, locate
from pytest_lakebranch.config import BY_NAME, TABLE, Row, Settings, refuse_unknown, resolve
from pytest_lakebranch.errors import ConfigError, MachineError
from pytest_lakebranch.state import State


@dataclass(frozen=True, slots=True)
class Project:
    """The settings that hold in a directory, and the file that ini values come from."""

    settings: Settings
    file: Path | None

    @property
    def state(self) -> State:
        """The state directory; nothing is made."""
        return State.at(self.settings.home)


def project(parsed: argparse.Namespace) -> Project:
    """All settings of the present directory; ``--home`` wins over them. Raises ConfigError."""
    found = locate(Path.cwd())
    names = [name for name in found.values if name.startswith("lakebranch_")]
    refuse_unknown(os.environ, names)
    options = {**_from_addopts(found.values, os.environ), **_home(parsed)}
    ini = {row.name: _typed(row, found.values[row.ini]) for row in TABLE if row.ini in found.values}
    return Project(resolve(options=options, environ=os.environ, ini=ini, root=found.root), found.path)


def state(parsed: argparse.Namespace, *, new: bool = False) -> State:
    """The state directory, whatever else is set here: a mistake in another setting does not matter. Raises ConfigError.

    It is checked, and made where it does not exist; one that the command line names is misspelt then, unless it may be
    ``new``. MachineError when it cannot be used.
    """
    row = BY_NAME["home"]
    elsewhere = parsed.home is not None or row.env in os.environ
    found = IniFile(None, Path.cwd()) if elsewhere else locate(Path.cwd())
    environ = {name: value for name, value in os.environ.items() if name == row.env}
    ini = {"home": found.values[row.ini]} if row.ini in found.values else {}
    options = {**_from_addopts(found.values, os.environ, only=(row,)), **_home(parsed)}
    home = State.at(resolve(options=options, environ=environ, ini=ini, root=found.root).home)
    if parsed.home is not None and not new and not home.is_there:
        raise MachineError(f"{home.home}, as --home says, is no state directory: it has no file FORMAT.")
    return home.ensure()


def _home(parsed: argparse.Namespace) -> dict[str, str]:
    return (
        {} if parsed.home is None else {"home": str(Path.cwd() / Path(parsed.home).expanduser()) if parsed.home else ""}
    )


def _typed(row: Row, value: Any) -> Any:
    """As pytest's ``getini`` gives it: a list is written one entry a line."""
    if row.kind == "list" and isinstance(value, str):
        return [line.strip() for line in value.splitlines() if line.strip()]
    return value


class _Quiet(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"addopts: {message}.")


def _from_addopts(values: Values, environ: Mapping[str, str], *, only: tuple[Row, ...] = TABLE) -> dict[str, Any]:
    """Options of ours in ``addopts`` and PYTEST_ADDOPTS; those of pytest and of other plugins are passed over."""
    written = values.get("addopts", [])
    if not isinstance(written, str | list):
        raise ConfigError(f"addopts: {written!r} is neither text nor a list.")
    words = _words("addopts", written) if isinstance(written, str) else [*written]
    words += _words("PYTEST_ADDOPTS", environ.get("PYTEST_ADDOPTS", ""))
    parser = _Quiet(add_help=False, allow_abbrev=False)
    for row in only:
        actions: dict[str, Any] = {"flag": argparse.BooleanOptionalAction, "list": "append"}
        parser.add_argument(row.flag, dest=row.name, action=actions.get(row.kind, "store"), default=None)
    known, _ = parser.parse_known_args([str(word) for word in words])
    return {name: value for name, value in vars(known).items() if value is not None}


def _words(place: str, written: str) -> list[str]:
    try:
        return shlex.split(written)
    except ValueError as error:
        raise ConfigError(f"{place}: {written!r} cannot be split into words: {error}.") from None
