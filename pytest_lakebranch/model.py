"""The facts that travel between rooms: immutable, without behaviour beyond derived values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Ending = Literal["clean", "rewind", "replace", "keep"]
"""How a lease ended: nothing was written; undone in place; thrown away; left for a human."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to connect. ``host`` is the directory of a unix socket."""

    host: str
    port: int
    user: str
    dbname: str


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """An immutable state that branches are forked from: a layer, or the frozen present of a running branch.

    ``key`` names it among all fork points of the machine; ``location`` is the provider's own affair.
    """

    key: str
    location: str


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """What a report says about a provider: PostgreSQL's version and origin, and the storage rung with its reason."""

    provider: str
    postgres: str
    origin: str
    storage: str
    storage_reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as the host gives it out. ``parent`` is a branch's name or ``base``; ``waited`` is in seconds."""

    lease: str
    branch: str
    parent: str
    endpoint: Endpoint
    waited: float


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """How a lease ended. ``held`` is in seconds, and so is ``releasing``, the end itself; ``connections`` counts those
    the test left open.
    """

    ending: Ending
    reason: str
    connections: int
    held: float
    releasing: float


@dataclass(frozen=True, slots=True)
class Lease:
    """One finished or running lease, as the report sees it. ``test`` is a node id, or what else asked for it.

    ``under`` is the lease that its branch was forked from, None for a fork of the base whose key is ``base``.
    It was given out at ``began`` (seconds since 1970) after ``waited`` seconds.
    """

    lease: str
    branch: str
    test: str
    worker: str
    purpose: str
    parent: str
    under: str | None
    base: str
    began: float
    waited: float
    end: LeaseEnd | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """How the run came by a base: ``steps`` that were run, none when it was cached, the seconds it took, who did it."""

    key: str
    worker: str
    began: float
    steps: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class KeptBranch:
    """A branch that was left for a human: whose it was, until when (seconds since 1970), and the command to open it."""

    branch: str
    test: str
    worker: str
    until: float
    bytes: int
    command: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What the host says of a whole run when it ends; ``began`` and ``ended`` are the host's, in seconds since 1970.

    ``remarks`` are what went wrong beside the tests and left nothing behind.
    """

    facts: ProviderFacts
    leases: tuple[Lease, ...]
    bases: tuple[Built, ...]
    began: float
    ended: float
    left_behind: tuple[str, ...] = ()
    kept: tuple[KeptBranch, ...] = ()
    remarks: tuple[str, ...] = ()
