"""What a branch can be forked from but its present: a time, or a position in its log."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from pytest_lakebranch.errors import BranchError

AT = "@"
"""Between a branch's path and the moment, in a fork point's location."""
LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


def is_position(when: str) -> bool:
    """Whether that is a position in the log."""
    return LSN.fullmatch(when) is not None


def moment(when: str) -> str:
    """A position, or a time as the service wants it (RFC 3339, in UTC); raises BranchError."""
    if is_position(when):
        return when
    try:
        found = datetime.fromisoformat(when)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise BranchError(
            f"at={when!r} is neither a time with its zone, such as '2026-11-01T12:00Z', nor a position in the log, "
            "such as '0/16B3748'."
        )
    return found.astimezone(UTC).isoformat().replace("+00:00", "Z")
