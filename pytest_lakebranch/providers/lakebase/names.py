"""The names of our branches, and who may do away with a branch: nobody but its owner, until its death date.

``lakebranch-OWNER-RUN-TAG-xYYMMDDHHMM``: whose it is, the run that made it, what it is in the run (``b7``; ``t``, or
``k`` where it is kept for later runs, and the beginning of a fingerprint for a template), and the minute (UTC) from
which anybody may delete it. The owner is a word, and six digits that tell who made it; the word says on whose behalf,
where ``lakebranch_owner`` does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pytest_lakebranch.errors import BranchError

GRAMMAR = re.compile(r"lakebranch-([a-z0-9]{1,12})-([0-9a-f]{8})-([a-z][a-z0-9]{0,12})-x([0-9]{10})")
STAMP = "%y%m%d%H%M"
DIGITS = 6
WORD = re.compile(rf"(?![0-9a-f]{{{DIGITS}}}$)[a-z0-9]{{1,6}}")
NUMBERED, NUMBERED_WORD = re.compile(r"([a-z]+)-([0-9]+)"), re.compile(r"[a-z]+[0-9]+")
TEMPLATE, KEPT = "t", "k"
"""The first letters of the tags of templates, those that end with their run and those that stay."""
GRACE = 3600.0
"""Seconds after its death date from which a branch of another owner may go: clocks differ."""


@dataclass(frozen=True, slots=True)
class Name:
    """A branch's name, taken apart. ``dies`` is in seconds since 1970."""

    owner: str
    run: str
    tag: str
    dies: float

    def __str__(self) -> str:
        """The branch's id: at most 63 characters of ``[a-z0-9-]``."""
        return f"lakebranch-{self.owner}-{self.run}-{self.tag}-x{datetime.fromtimestamp(self.dies, UTC):{STAMP}}"

    @property
    def word(self) -> str:
        """What the branch is in the run, without the number of the attempt at making it."""
        return re.sub(r"r[0-9]+$", "", self.tag)


def parse(branch_id: str) -> Name | None:
    """A name of our grammar; None for any other."""
    found = GRAMMAR.fullmatch(branch_id)
    if found is None:
        return None
    try:
        dies = datetime.strptime(found[4], STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    return Name(found[1], found[2], found[3], dies)


def owner_of(identity: str, behalf: str = "") -> str:
    """The owner in names: recognisable, and different for different identities and for whatever else they act."""
    word = re.sub(r"[^a-z0-9]", "", identity.partition("@")[0].lower())[:6]
    return f"{_word(behalf, word) if behalf else word}{_digits(identity)}"


def _word(behalf: str, own: str) -> str:
    """A word that stands for nothing else: ``pr17`` for ``pr-17``, and what is a short word already for itself, unless
    it looks like the former, like digits, or is ``own``, the word for nobody; digits for all others.
    """
    named = NUMBERED.fullmatch(behalf)
    word = f"{named[1]}{named[2]}" if named else behalf
    is_readable = WORD.fullmatch(word) is not None and word != own
    return word if is_readable and (named or not NUMBERED_WORD.fullmatch(word)) else _digits(behalf)


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def is_same(owner: str, other: str) -> bool:
    """Whether two owners are one identity, on whosever behalf."""
    return owner[-DIGITS:] == other[-DIGITS:]


def is_kept_template(name: Name, status: Mapping[str, Any]) -> bool:
    """Whether a branch is a template for later runs that its steps have left finished: only then is its expiry taken
    away.
    """
    return name.tag[0] == KEPT and status.get("current_state") == "READY" and not status.get("expire_time")


def is_past(name: Name, status: Mapping[str, Any], now: float) -> bool:
    """Whether a branch's death date has passed, and it will not expire by itself: kept and renewed ones will."""
    expires = status.get("expire_time")
    return now > name.dies + GRACE and not (expires and datetime.fromisoformat(str(expires)).timestamp() > now)


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets pass what may be changed or deleted by the identity of ``owner`` in ``project``, and refuses all else before
    any call.
    """

    project: str
    owner: str

    def check(self, path: str, status: Mapping[str, Any] | None = None, *, now: float) -> Name:
        """The name of a branch that may go. ``status`` is what the API says of it, None where nobody asked.

        Raises BranchError.
        """
        prefix = f"{self.project}/branches/"
        name = parse(path.removeprefix(prefix)) if path.startswith(prefix) else None
        reason = self._reason(name, status or {}, now)
        if name is None or reason is not None:
            raise BranchError(f"{path} is not touched: {reason}.")
        return name

    def _reason(self, name: Name | None, status: Mapping[str, Any], now: float) -> str | None:
        if name is None:
            return "its name is none that pytest-lakebranch gives"
        if status.get("default"):
            return "it is the project's default branch"
        if status.get("is_protected"):
            return "it is protected"
        if not is_same(name.owner, self.owner) and now < name.dies + GRACE:
            return f"it belongs to {name.owner}, and we are {self.owner}"
        return None
