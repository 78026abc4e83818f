"""Which roles a dump needs that the server does not have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Workplace

_NAME = r'(?:"(?:[^"]|"")+"|[a-z_][\w$]*)'
_NAMES = rf"(?P<names>{_NAME}(?:, {_NAME})*)"
_RIGHT = rf"(?:GRANT|REVOKE) .* (?:TO|FROM) {_NAMES}(?=[;\s])"
_NEEDED = [
    re.compile(pattern)
    for pattern in (
        rf"ALTER .* OWNER TO {_NAMES};",
        _RIGHT,
        rf"ALTER DEFAULT PRIVILEGES FOR ROLE {_NAMES}",
        rf"ALTER DEFAULT PRIVILEGES FOR ROLE .* {_RIGHT}",
        rf"CREATE POLICY {_NAME} ON .*? TO {_NAMES}(?=;| USING | WITH )",
        rf"SET SESSION AUTHORIZATION {_NAMES};",
        rf"CREATE USER MAPPING FOR {_NAMES} SERVER ",
    )
]
"""What pg_dump writes on one line, or at the beginning of a first one."""
_NO_ROLES = {"public", "PUBLIC", "current_user", "session_user", "current_role"}


def missing(lines: Iterable[str], place: Workplace, more: Iterable[str] = ()) -> set[str]:
    """The roles that the SQL in ``lines`` names, and ``more``, less those the server has."""
    needed = {name for line in lines for name in _named_in(line)} - _NO_ROLES | set(more)
    if not needed:
        return set()
    with connect(place.endpoint) as conn:
        there = conn.execute("SELECT rolname FROM pg_roles").fetchall()
    return needed - {name for (name,) in there}


def _named_in(line: str) -> Iterator[str]:
    if line.startswith(("ALTER", "GRANT", "REVOKE", "CREATE POLICY", "CREATE USER", "SET SESSION")):
        for pattern in _NEEDED:
            if match := pattern.match(line):
                yield from (_plain(name) for name in re.findall(_NAME, match["names"]))


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
