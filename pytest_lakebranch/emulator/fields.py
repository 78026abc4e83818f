"""Reading request bodies and update masks by a description of their fields.

A field that only the server sets may be present and is passed over, as clients send back what they have read.
Any other field that the API does not have is refused, as is a mask that names one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pytest_lakebranch.emulator.clock import parse_duration, parse_timestamp
from pytest_lakebranch.emulator.refusals import ApiError, invalid

Reader = Callable[[str, Any], Any]
"""Turns a value of JSON into ours, or raises ApiError that names the field."""
OUTPUT_ONLY = frozenset({"name", "parent", "uid", "create_time", "update_time", "delete_time", "purge_time", "status"})


def text(field: str, value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise _wrong(field, "a string", value)
    return value


def flag(field: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise _wrong(field, "a boolean", value)
    return value


def number(field: str, value: Any) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(field, "a number", value)
    return float(value)


def integer(field: str, value: Any) -> int:
    """A whole number; as a string too, as protobuf writes 64-bit ones."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,19}", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(field, "an integer", value)
    return value


def seconds(field: str, value: Any) -> float:
    """A duration such as ``3600s``."""
    try:
        return parse_duration(text(field, value))
    except ValueError:
        raise _wrong(field, "a duration such as 3600s", value) from None


def moment(field: str, value: Any) -> float:
    """A timestamp, as seconds since 1970."""
    try:
        return parse_timestamp(text(field, value))
    except ValueError:
        raise _wrong(field, "a timestamp such as 2026-11-01T12:00:00Z", value) from None


def one_of(*known: str) -> Reader:
    """One of an enumeration's names."""

    def read(field: str, value: Any) -> str:
        if value not in known:
            raise _wrong(field, f"one of {', '.join(known)}", value)
        return str(value)

    return read


def many(reader: Reader) -> Reader:
    """A list."""

    def read(field: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(field, "a list", value)
        return [reader(f"{field}[{index}]", item) for index, item in enumerate(value)]

    return read


def settings(field: str, value: Any) -> dict[str, str]:
    """An object whose values are strings."""
    if not isinstance(value, dict):
        raise _wrong(field, "an object", value)
    return {name: text(f"{field}.{name}", item) for name, item in value.items()}


def inside(schema: Mapping[str, Reader], *, ignored: frozenset[str] = frozenset()) -> Reader:
    """An object with these fields."""

    def read(field: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(field or "body", "an object", value)
        prefix = f"{field}." if field else ""
        found = {}
        for name, item in value.items():
            if name in ignored:
                continue
            if name not in schema:
                raise invalid(f"Unknown field '{prefix}{name}'.")
            if item is not None:
                found[name] = schema[name](f"{prefix}{name}", item)
        return found

    return read


def _wrong(field: str, wanted: str, value: Any) -> ApiError:
    return invalid(f"Field '{field}' must be {wanted}, got {value!r}.")


def spec(schema: Mapping[str, Reader], body: Any, *, more: Mapping[str, Reader] | None = None) -> dict[str, Any]:
    """The fields of ``spec`` in a body; ``more`` are fields beside it, which come back with a dot before their name."""
    ignored = OUTPUT_ONLY | {name for name in body if name.endswith("_id")} if isinstance(body, dict) else OUTPUT_ONLY
    found = inside({"spec": inside(schema), **(more or {})}, ignored=ignored)("", body)
    return {**found.get("spec", {}), **{f".{name}": value for name, value in found.items() if name != "spec"}}


def masked(
    schema: Mapping[str, Reader],
    body: Any,
    mask: str,
    *,
    groups: Mapping[str, tuple[str, ...]],
    clearable: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Those fields of ``spec`` in a body that the update mask names.

    ``groups`` are fields of which one is set, by the name that a mask has for them. A mask that names what the body
    lacks is refused, but for the ``clearable`` fields: clients cannot send empty lists.
    """
    given = spec(schema, body)
    if not mask:
        raise invalid("Field 'update_mask' is required.")
    chosen: dict[str, Any] = {}
    for path in (part.strip() for part in mask.split(",")):
        chosen |= _chosen(path, schema, given, groups, clearable)
    return chosen


def _chosen(
    path: str,
    schema: Mapping[str, Reader],
    given: dict[str, Any],
    groups: Mapping[str, tuple[str, ...]],
    clearable: frozenset[str],
) -> dict[str, Any]:
    if path in ("*", "spec"):
        return given
    name, _, inner = path.removeprefix("spec.").partition(".")
    if not path.startswith("spec.") or not (name in schema or name in groups):
        raise invalid(f"Field 'update_mask' names an unknown field '{path}'.")
    found = {each: given[each] for each in groups.get(name, (name,)) if each in given}
    if inner and isinstance(found.get(name), dict):
        found = {name: {key: value for key, value in found[name].items() if key == inner}}
    if not found or (inner and not found[name]):
        if path.removeprefix("spec.") in clearable:
            return {name: []}
        raise invalid(f"Field 'update_mask' names '{path}', which the request does not have.")
    return found
