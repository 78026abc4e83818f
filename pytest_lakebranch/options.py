"""pytest's side of the settings: options, ini values and their resolution."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_lakebranch.config import TABLE, Row, Settings, refuse_unknown, resolve


def add_options(parser: pytest.Parser) -> None:
    """Declare every setting as an option and an ini value. Defaults are None: "not given" is not a value."""
    group = parser.getgroup("lakebranch", "branches of a PostgreSQL database")
    for row in TABLE:
        group.addoption(row.flag, dest=row.ini, help=_help(row), **_action(row))
        kind = {"text": "string", "number": "string", "list": "linelist", "flag": "bool"}[row.kind]
        parser.addini(row.ini, _help(row), type=kind, default=None)  # type: ignore[arg-type]


def _action(row: Row) -> dict[str, Any]:
    if row.kind == "flag":
        return {"action": argparse.BooleanOptionalAction, "default": None}
    return {"action": "append" if row.kind == "list" else "store", "default": None, "metavar": row.metavar}


def _help(row: Row) -> str:
    choices = f" ({', '.join(row.choices)})" if row.choices else ""
    default = f"; default: {row.default}" if row.default not in ((), False, "") else ""
    return f"{row.help}{choices}{default}".replace("%", "%%")


def given(config: pytest.Config, parsed: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the command line and the ini file say, without what they leave out."""
    options = {row.name: value for row in TABLE if (value := getattr(parsed, row.ini, None)) is not None}
    ini = {row.name: value for row in TABLE if (value := config.getini(row.ini)) is not None}
    return options, ini


def settings_of(config: pytest.Config, parsed: argparse.Namespace) -> Settings:
    """The resolved settings; raises ConfigError. ``parsed`` is the command line as far as pytest has read it."""
    options, ini = given(config, parsed)
    refuse_unknown(os.environ, _ini_names(config))
    return resolve(options=options, environ=os.environ, ini=ini, root=Path(config.rootpath))


def _ini_names(config: pytest.Config) -> list[str]:
    """Names with our prefix in the ini file, known or not. pytest has no public way to ask for unknown ones since 9."""
    names = config._inicfg if hasattr(config, "_inicfg") else config.inicfg
    return [name for name in names if name.startswith("lakebranch_")]


def terminal_of(config: pytest.Config) -> str | None:
    """The path of the terminal on which progress may be shown. Only while pytest does not capture output."""
    if config.get_verbosity() < 0:
        return None
    try:
        return os.ttyname(1)
    except OSError:  # where the output is a file, nobody watches
        return None
