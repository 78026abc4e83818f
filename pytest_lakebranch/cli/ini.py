"""The settings file that pytest would use in a directory, found and read as pytest does, without pytest.

The order of names, what makes a file count, and the root directory follow _pytest/config/findpaths.py of pytest 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import ConfigError

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IniFile:
    """The file that was found, what pytest's settings are in it, and pytest's root directory."""

    path: Path | None
    root: Path
    values: Values = field(default_factory=dict)


def locate(directory: Path) -> IniFile:
    """What pytest, started in ``directory`` without arguments, would take; raises ConfigError for a damaged file."""
    places = [directory, *directory.parents]
    for place in places:
        for name, read in READERS.items():
            path = place / name
            if path.is_file() and (values := _read(path, read)) is not None:
                return IniFile(path, place, values)
    for name in ("pyproject.toml", "setup.py"):
        for place in places:
            if (place / name).is_file():
                return IniFile(None, place)
    return IniFile(None, directory)


def _read(path: Path, read: Callable[[Path], Values | None]) -> Values | None:
    import iniconfig

    try:
        return read(path)
    except iniconfig.ParseError as error:
        raise ConfigError(f"{error}.") from error
    except (ValueError, TypeError, AttributeError) as error:  # no TOML, no UTF-8, or no table where pytest's should be
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def _sections(path: Path, section: str) -> Values | None:
    import iniconfig

    found = iniconfig.IniConfig(str(path))
    return dict(found[section].items()) if section in found.sections else None


def _pytest_ini(path: Path) -> Values:
    return _sections(path, "pytest") or {}


def _tox_ini(path: Path) -> Values | None:
    return _sections(path, "pytest")


def _setup_cfg(path: Path) -> Values | None:
    return _sections(path, "tool:pytest")


def _toml(path: Path) -> Values:
    import tomllib

    return tomllib.loads(path.read_text(encoding="utf-8"))


def _pytest_toml(path: Path) -> Values:
    return dict(_toml(path).get("pytest", {}))


def _pyproject(path: Path) -> Values | None:
    pytest_table = _toml(path).get("tool", {}).get("pytest", {})
    native = {name: value for name, value in pytest_table.items() if name != "ini_options"}
    return native or pytest_table.get("ini_options")


READERS: dict[str, Callable[[Path], Values | None]] = {
    "pytest.toml": _pytest_toml,
    ".pytest.toml": _pytest_toml,
    "pytest.ini": _pytest_ini,
    ".pytest.ini": _pytest_ini,
    "pyproject.toml": _pyproject,
    "tox.ini": _tox_ini,
    "setup.cfg": _setup_cfg,
}
