"""What a Python object would do, as a string: the source it was written in and the plain values it carries."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps.notes import digest

_PLAIN = (str, bytes, int, float, complex, bool, type(None), PurePath, date, time, timedelta, Decimal, Enum)
_BUILT_IN = "built-in"


def identity(value: Any, label: str) -> str:
    """Differs whenever ``value`` was written differently or carries other values; the same in every process.

    A function counts by its source file, name, default values and closure.  ConfigError when it carries something
    whose content cannot be told: better no cache than a wrong one.
    """
    return "\n".join(_parts(value, label, frozenset()))


def _parts(value: Any, label: str, seen: frozenset[int]) -> Iterator[str]:
    if isinstance(value, _PLAIN):
        yield f"{type(value).__name__} {value!r}"
    elif id(value) not in seen:
        yield from _composed(value, label, seen | {id(value)})


def _composed(value: Any, label: str, seen: frozenset[int]) -> Iterator[str]:
    if isinstance(value, list | tuple | set | frozenset | dict):
        yield from _collection(value, label, seen)
        return
    yield type(value).__qualname__
    for part in _pieces(value, label):
        yield from _parts(part, label, seen)


def _collection(value: Any, label: str, seen: frozenset[int]) -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else value
    texts = ["\n".join(_parts(item, label, seen)) for item in items]
    yield f"{type(value).__name__} of {len(texts)}"
    yield from sorted(texts) if isinstance(value, set | frozenset) else texts


def _pieces(value: Any, label: str) -> list[Any]:
    """The simpler objects that ``value`` consists of."""
    match value:
        case FunctionType():
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            pieces = [value.__code__, value.__defaults__, value.__kwdefaults__, *cells]
        case CodeType():
            place = [value.co_qualname, value.co_firstlineno, _columns(value)]
            pieces = [*place, value.co_names, value.co_consts, _source(value, label)]
        case functools.partial():
            pieces = [value.func, value.args, value.keywords]
        case MethodType():
            pieces = [value.__func__, value.__self__]
        case BuiltinFunctionType():
            pieces = [value.__module__, value.__qualname__]
        case type():
            pieces = [value.__qualname__, _source(value, label), *value.__bases__]
        case ModuleType():
            pieces = [value.__name__, _source(value, label)]
        case _:
            pieces = [type(value), _state(value, label)]
    return pieces


def _columns(code: CodeType) -> list[int]:
    """Where on its line the code begins and ends: two lambdas may share one. Empty under ``-X no_debug_ranges``."""
    found = [column for *_, start, end in code.co_positions() for column in (start, end) if column is not None]
    return [min(found), max(found)] if found else []


def _source(value: Any, label: str) -> str:
    try:
        file = Path(inspect.getsourcefile(value) or "")
    except TypeError:  # built into Python
        return _BUILT_IN
    if not file.is_file():
        raise ConfigError(
            f"{label}: {value!r} has no source file, so a change of it could not be noticed. Put it into a module."
        )
    return digest(file, label)


def _state(value: Any, label: str) -> Any:
    """What would be pickled: Python refuses that for objects that carry more than it can see."""
    try:
        reduce: Callable[[Any], Any] = copyreg.dispatch_table.get(type(value), _reduce)
        reduced = reduce(value)
    except TypeError as error:
        raise ConfigError(
            f"{label}: it carries a {type(value).__qualname__}, whose content cannot be told, so a change could not be "
            "noticed. Carry plain values only, or write a Step with a fingerprint of its own."
        ) from error
    return reduced if isinstance(reduced, str) else reduced[1:3]


def _reduce(value: object) -> Any:
    return value.__reduce_ex__(2)
