"""What went wrong in Python that a user wrote: where, which error, which statement."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from pytest_lakebranch.steps.failures import Failure
from pytest_lakebranch.steps.files import shown

_NOT_THE_USERS = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]), "<frozen")
_STATEMENTS = {"psycopg.": "query", "sqlalchemy.engine.default": "statement", "django.db.backends.utils": "sql"}
"""Where drivers and frameworks hold the statement that they were asked to execute: their errors do not carry it."""


def failure_of(error: BaseException, root: Path, *, otherwise: str = "") -> Failure:
    """The failure that ``error`` is; ``otherwise`` is where it happened when no frame is the user's own."""
    return Failure(where(error, root, otherwise), message(error), statement(error))


def message(error: BaseException) -> str:
    """The error's class and text; of one that SQLAlchemy wraps, what the driver said."""
    told = getattr(error, "orig", None) or error
    name = type(told).__qualname__
    module = type(told).__module__
    return f"{name if module == 'builtins' else f'{module}.{name}'}: {told}"


def where(error: BaseException, root: Path, otherwise: str = "") -> str:
    """``file:line`` of the deepest frame in the user's own code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shown(Path(error.filename), root)}:{error.lineno}"
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    readable = [(file, line) for file, line in frames if file.is_file() and not str(file).startswith(_NOT_THE_USERS)]
    own = [(file, line) for file, line in readable if "site-packages" not in file.parts]
    installed = [(file, line) for file, line in readable if "psycopg" not in file.parts]
    if not own and (otherwise or not installed):
        return shown(Path(otherwise), root) if otherwise else "its call"
    file, number = (own or installed)[-1]
    return f"{shown(file, root)}:{number}"


def statement(error: BaseException) -> str:
    """What the driver was asked to execute, without its parameters."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        module = frame.f_globals.get("__name__", "")
        for prefix, name in _STATEMENTS.items():
            if module.startswith(prefix) and name in frame.f_locals:
                return _as_text(frame, name)
    return ""


def _as_text(frame: FrameType, name: str) -> str:
    query = frame.f_locals[name]
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return query.as_string() if hasattr(query, "as_string") else str(query)
