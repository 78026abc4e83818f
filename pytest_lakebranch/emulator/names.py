"""Identifiers of resources: which may be chosen, and the paths they make."""

from __future__ import annotations

import re
import uuid

from pytest_lakebranch.emulator.refusals import invalid, required

PATTERN = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
SHORTEST_ROLE = 4


def check(field: str, value: str) -> str:
    """``value`` when a resource can be called so; raises ApiError."""
    if not value:
        raise required(field)
    if not re.fullmatch(PATTERN, value):
        raise invalid(f"Field {field} must match pattern {PATTERN}, got '{value}'.")
    return value


def check_role(value: str) -> str:
    """As :func:`check`, for the identifier of a role, which has four characters at least."""
    if len(check("role_id", value)) < SHORTEST_ROLE:
        raise invalid(f"Field role_id must have between 4 and 63 characters, got '{value}'.")
    return value


def made_from(name: str) -> str:
    """An identifier for something whose name in PostgreSQL is ``name``."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
    return plain if re.fullmatch(PATTERN, plain) and len(plain) >= SHORTEST_ROLE else f"id-{uuid.uuid4().hex[:8]}"
