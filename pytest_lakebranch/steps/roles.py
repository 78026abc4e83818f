"""Which roles a dump needs that the server does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Workplace

_NAME = r'(?P<name>"(?:[^"]|"")+"|[a-z_][\w$]*)'
_NEEDED = re.compile(
    rf"^(?:ALTER .* OWNER TO {_NAME};|(?:GRANT|REVOKE) .* (?:TO|FROM) {_NAME.replace('name', 'grantee')}(?=[;\s])"
    rf"|ALTER DEFAULT PRIVILEGES FOR ROLE {_NAME.replace('name', 'maker')})"
)
_NO_ROLES = {"public", "PUBLIC", "current_user", "session_user", "current_role"}


def missing(lines: Iterable[str], place: Workplace) -> set[str]:
    """The roles that the SQL in ``lines`` gives objects or rights to, less those the server has."""
    needed = {name for line in lines for name in _named_in(line)} - _NO_ROLES
    if not needed:
        return set()
    with connect(place.endpoint) as conn:
        there = conn.execute("SELECT rolname FROM pg_roles").fetchall()
    return needed - {name for (name,) in there}


def _named_in(line: str) -> list[str]:
    match = _NEEDED.match(line) if line.startswith(("ALTER", "GRANT", "REVOKE")) else None
    return [_plain(name) for name in match.groups() if name] if match else []


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
