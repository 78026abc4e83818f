"""What a schema consists of: things with a kind, a name and facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = (
    "database",
    "schema",
    "extension",
    "collation",
    "enum",
    "domain",
    "range",
    "type",
    "sequence",
    "foreign server",
    "table",
    "foreign table",
    "view",
    "materialized view",
    "column",
    "constraint",
    "index",
    "statistics",
    "trigger",
    "rule",
    "policy",
    "function",
    "procedure",
    "aggregate",
    "event trigger",
    "publication",
    "default privileges",
)
"""All kinds, in the order in which they are listed."""
TABLES = frozenset({"table", "foreign table", "view", "materialized view"})
"""Kinds that others belong to."""
RANK = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a schema.

    ``name`` is qualified and quoted as in SQL (``public.orders``); that of a part of a table follows the table's
    (``public.orders.total``), which is in ``of`` then. ``facts`` maps words such as ``type`` or ``default`` to text;
    what does not hold, or is PostgreSQL's default, is left out. ``follows`` names the columns that an inherited one
    follows; two things are equal whatever it says.
    """

    kind: str
    name: str
    facts: Mapping[str, str]
    of: str = ""
    follows: tuple[str, ...] = field(default=(), compare=False)

    @property
    def title(self) -> str:
        """Kind and name: what assertions and messages call it."""
        return f"{self.kind} {self.name}"

    @property
    def place(self) -> tuple[int, str, int, str]:
        """Sorts things by kind, and the parts of a table behind their table."""
        rank = RANK[self.kind]
        return (RANK["table"], self.of, rank, self.name) if self.of else (_group(self.kind), self.name, rank, "")


def _group(kind: str) -> int:
    return RANK["table"] if kind in TABLES else RANK[kind]


class Schema:
    """All things of one database."""

    def __init__(self, things: Iterable[Thing]) -> None:
        self.things = {(thing.kind, thing.name): thing for thing in sorted(things, key=lambda thing: thing.place)}

    def __iter__(self) -> Iterator[Thing]:
        return iter(self.things.values())

    def __len__(self) -> int:
        return len(self.things)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.things == other.things

    __hash__ = None  # type: ignore[assignment]  # equal by content

    def to_json(self) -> list[dict[str, Any]]:
        """As a list of JSON objects; :meth:`from_json` reads it back."""
        return [asdict(thing) for thing in self]

    @classmethod
    def from_json(cls, stored: Iterable[Mapping[str, Any]]) -> Schema:
        """From :meth:`to_json`. Raises KeyError or TypeError when it is something else."""
        return cls(
            Thing(one["kind"], one["name"], dict(one["facts"]), one["of"], tuple(one["follows"])) for one in stored
        )
