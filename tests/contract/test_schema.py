"""The schema diff: each kind of object that is compared, and each change in schema_objects, is noticed and judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from schema_changes import CHANGES, Change, on_database
from schema_objects import ROLES, SCHEMA
from step_servers import Server

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema.catalog import read, within
from pytest_lakebranch.schema.diff import compare
from pytest_lakebranch.schema.elsewhere import of_variable
from pytest_lakebranch.schema.model import KINDS, Schema
from pytest_lakebranch.steps.base import Workplace

pytest_plugins = ["step_fixtures"]
MIRRORED = {"+": "-", "-": "+", "~": "~"}


@pytest.fixture(scope="module", params=["embedded", "system"])
def before(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Schema]]:
    """A connection to a database with SCHEMA, and what was read of it."""
    server: Server = request.getfixturevalue(f"{request.param}_server")
    place: Workplace = server.place(tmp_path_factory.mktemp("root"))
    with server.connect() as conn:
        conn.execute(ROLES)
    with connect(place.endpoint, autocommit=True) as conn:
        conn.execute(SCHEMA)
        yield conn, read(conn)


def changed(conn: psycopg.Connection[Any], sql: str) -> Schema:
    """The schema after ``sql``, which is undone."""
    try:
        conn.execute("BEGIN")
        conn.execute(sql)
        return within(conn)
    finally:
        conn.execute("ROLLBACK")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_change_is_noticed(before: tuple[Any, Schema], change: Change) -> None:
    """The diff names exactly what changed, both ways, says whether data is lost, and is told in all three formats."""
    conn, old = before
    new = changed(conn, change.sql)
    diff = compare(old, new)
    assert {f"{entry.sign} {entry.title}" for entry in diff.entries} == set(change.says)
    assert bool(diff.destructive) == change.destructive
    for told in (diff.text(), diff.markdown(), json.dumps(diff.to_json())):
        assert all(title.rpartition(" ")[2] in told for title in (*diff.added, *diff.removed, *diff.changed))
    back = {f"{MIRRORED[entry.sign]} {entry.title}" for entry in compare(new, old).entries}
    assert back == set(change.says)


def test_every_kind_is_read(before: tuple[Any, Schema]) -> None:
    """The schema with every object has every kind that we know."""
    assert {thing.kind for thing in before[1]} == set(KINDS)


def test_what_an_owner_revokes_from_himself(before: tuple[Any, Schema]) -> None:
    """Told as what is not there any more."""
    conn, old = before
    (entry,) = compare(old, changed(conn, "REVOKE INSERT, DELETE ON customer FROM CURRENT_USER")).entries
    assert entry.facts == {"grants to the owner": (None, "all but DELETE, INSERT")}


def test_rights_that_only_the_owner_has(before: tuple[Any, Schema]) -> None:
    """On a column of a view they are none, and nothing that a view which is dropped stumbles over."""
    conn, old = before
    made = changed(conn, "GRANT SELECT (name) ON rich TO clerk; ALTER VIEW rich OWNER TO clerk")
    assert made.things["view", "public.rich"].facts.keys() == old.things["view", "public.rich"].facts.keys()
    assert compare(made, changed(conn, "DROP VIEW rich")).removed == ("view public.rich",)


def test_options_of_what_is_foreign_hold_secrets(before: tuple[Any, Schema]) -> None:
    """Of options that we do not know only the names are read."""
    conn, old = before
    assert old.things["foreign server", "elsewhere"].facts["options"] == "host 'a', secret"
    assert old.things["foreign table", "public.remote"].facts["foreign options"] == "secret, table_name 'x'"
    mapping = "CREATE USER MAPPING FOR clerk SERVER elsewhere OPTIONS (user 'me', password 'pssst')"
    server = changed(conn, mapping).things["foreign server", "elsewhere"]
    assert server.facts["user mapping for clerk"] == "password, user"
    setting = changed(conn, on_database("ALTER DATABASE %I SET app.secret = ''pssst''"))
    assert setting.things["database", "itself"].facts["settings of everybody"] == "app.secret"


def test_nothing_differs_from_itself(before: tuple[Any, Schema]) -> None:
    """Read again, and read back from JSON, it is the same."""
    conn, old = before
    assert read(conn) == old
    assert Schema.from_json(json.loads(json.dumps(old.to_json()))) == old
    assert not compare(old, read(conn))
    assert compare(old, old).text() == "no changes\n"


def test_other_locales(before: tuple[Any, Schema]) -> None:
    """A collation with another locale differs, whichever provider it is of."""
    conn, _ = before
    provider, one, other = ("builtin", "C", "C.UTF-8") if conn.info.server_version >= 170000 else ("icu", "de", "fr")
    make = "CREATE COLLATION tongue (provider = {}, locale = '{}')"
    diff = compare(changed(conn, make.format(provider, one)), changed(conn, make.format(provider, other)))
    assert diff.changed == ("collation public.tongue",)
    assert diff.entries[0].facts == {"locale": (one, other)}


def test_a_server_elsewhere(before: tuple[Any, Schema]) -> None:
    """Its URL may be SQLAlchemy's; what the server refuses to read is said as such, without what is secret."""
    conn, old = before
    where = f"/{conn.info.dbname}?host={conn.info.host}&port={conn.info.port}"
    assert of_variable("SERVER", {"SERVER": f"postgresql+asyncpg://postgres@{where}"}) == old
    with conn.transaction():
        conn.execute("CREATE ROLE visitor LOGIN; REVOKE SELECT ON pg_policy FROM PUBLIC")
    try:
        with pytest.raises(MachineError) as caught:
            of_variable("SERVER", {"SERVER": f"postgresql://visitor:pg_policy@{where}"})
    finally:
        conn.execute("GRANT SELECT ON pg_policy TO PUBLIC; DROP ROLE visitor")
    assert str(caught.value) == "env:SERVER: it cannot be read: permission denied for table ***"
