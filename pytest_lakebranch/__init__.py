"""pytest-lakebranch: a branch of a production-shaped PostgreSQL database for every test, worker or run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_lakebranch.branch import Branch as Branch
    from pytest_lakebranch.fixtures import lakebranch_fixture as lakebranch_fixture

__version__ = "0.1.0"
__all__ = ["Branch", "__version__", "lakebranch_fixture"]

_HOMES = {"Branch": "pytest_lakebranch.branch", "lakebranch_fixture": "pytest_lakebranch.fixtures"}


def __getattr__(name: str) -> Any:
    """Import public names when they are used: a plugin that is installed but unused costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
