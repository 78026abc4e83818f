"""Originals for the tests of ``postgres:`` steps, and bases made of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from local_rigs import Rig
from step_servers import Server

from pytest_lakebranch.cli import own_base
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.progress import Progress
from pytest_lakebranch.steps.base import Replacement, Workplace
from pytest_lakebranch.steps.files import Application
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.steps.notes import Notes

PASSWORD = "pa55word-of-the-original"
ROLES = """
CREATE ROLE clerk LOGIN SUPERUSER PASSWORD 'clerks own pa55word';
CREATE ROLE staff; GRANT staff TO clerk;
CREATE ROLE stranger LOGIN PASSWORD 'strangers own pa55word';
CREATE ROLE reader LOGIN;
CREATE ROLE copier LOGIN REPLICATION;
GRANT pg_read_all_data TO copier, reader;
ALTER ROLE clerk SET search_path = nowhere;
"""
SHOP = """
CREATE EXTENSION pg_trgm;
CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL);
INSERT INTO item (name) SELECT 'item ' || n FROM generate_series(1, 5000) n;
CREATE INDEX item_name ON item USING gin (name gin_trgm_ops);
ALTER TABLE item OWNER TO clerk;
GRANT SELECT ON item TO reader;
CREATE TABLE account (id int PRIMARY KEY, amount int NOT NULL);
INSERT INTO account SELECT n, 100 FROM generate_series(1, 100) n;
CREATE UNLOGGED TABLE visit (at int);
INSERT INTO visit VALUES (1);
SELECT lo_from_bytea(4711, 'large');
GRANT SELECT ON LARGE OBJECT 4711 TO public;
"""


@dataclass
class Original:
    """A database of a running server; ``use`` makes PROD_URL lead there."""

    server: Server
    name: str
    monkeypatch: pytest.MonkeyPatch

    def use(self, user: str = "postgres") -> str:
        """The entry of a step that copies it."""
        url = f"postgresql://{user}:{PASSWORD}@/{quote(self.name)}?host={self.server.sockets}&port=5432"
        self.monkeypatch.setenv("PROD_URL", url)
        return "postgres:PROD_URL"

    def execute(self, *statements: str) -> list[Any]:
        """Run statements as superuser; the rows of the last one."""
        with self.server.connect(self.name) as conn:
            for statement in statements:
                cursor = conn.execute(statement)
            return cursor.fetchall() if cursor.description else []


@dataclass
class Told(Progress):
    """What was told of each step."""

    steps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(None)

    def stepped(self, label: str, amount: str, seconds: float) -> None:
        """See Progress."""
        self.steps.append(amount)


def built(made: Rig, *entries: Any) -> tuple[ForkPoint, list[str]]:
    """The base that these steps make, and what was told of each."""
    progress = Told()
    application = Application(made.settings.user, made.settings.database)
    notes = Notes(made.home / "notes")
    steps = [parse(entry, root=made.home, notes=notes, application=application) for entry in entries]
    _, at = own_base.build(made.provider, steps, made.settings, progress)
    return at, progress.steps


def refusing(place: Workplace) -> Workplace:
    """As for the first step of a base, but that nothing may be copied physically."""

    def never(*_: object) -> None:
        raise AssertionError("files were asked for")

    return replace(place, replacement=Replacement(never, never))


def as_told(shop: Original, place: Workplace, root: Path, *, user: str = "copier", words: str = "") -> str:
    """What the step says of a copy, of which not a file may come."""
    return parse(f"{shop.use(user)}{words}", root=root).apply(refusing(place))
