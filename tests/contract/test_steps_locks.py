"""Steps that wait for a lock that nobody gives back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from step_servers import Server

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.steps.locks import watched

pytest_plugins = ["step_fixtures", "original_fixtures"]


def seed(place: Workplace) -> Callable[[psycopg.Connection], None]:
    """A seed that waits for a lock which it holds itself, with another connection."""

    def load(conn: psycopg.Connection) -> None:
        conn.execute("CREATE TABLE item ()")
        conn.commit()
        with connect(place.endpoint, application_name="the shop's pool") as other:
            other.execute("LOCK item")
            conn.execute("ALTER TABLE item ADD price int; CREATE ROLE app PASSWORD 'hunter2'")

    return load


def test_blocker_is_shown(place: Workplace, server: Server) -> None:
    """The step ends after the deadline and the message says who holds the lock; no connection of ours is left."""
    with (
        pytest.raises(BaseError) as caught,
        closing(connect(place.endpoint)) as conn,
        watched(place, "python:seed", seconds=0.2),
    ):
        seed(place)(conn)
    message = str(caught.value)
    assert message.startswith("python:seed waited for a lock for 0.2 s with\n    ALTER TABLE item ADD price int; ")
    assert "CREATE ROLE app PASSWORD ***\n" in message
    assert "(the shop's pool, idle in transaction, in a transaction of " in message
    assert "whose last statement is\n    LOCK item\n" in message
    assert server.clients_of(place) == 0


@pytest.mark.parametrize("wanted", ["ALTER TABLE item ADD price int", "UPDATE item SET id = 2"])
def test_prepared_transaction_is_shown(original_server: Server, tmp_path: Path, wanted: str) -> None:
    """It holds locks without a process; the message says which it is, and how it is ended."""
    place = original_server.place(tmp_path)
    with connect(place.endpoint) as other:
        other.execute("CREATE TABLE item (id int); INSERT INTO item VALUES (1)")
        other.commit()
        other.execute("DELETE FROM item")
        other.execute("PREPARE TRANSACTION 'the shop''s order 7'")
    try:
        with (
            pytest.raises(BaseError) as caught,
            closing(connect(place.endpoint)) as conn,
            watched(place, "python:seed", seconds=0.2),
        ):
            conn.execute(wanted)
    finally:
        with connect(place.endpoint, autocommit=True) as other:
            other.execute("ROLLBACK PREPARED 'the shop''s order 7'")
    message = str(caught.value)
    assert f"waited for a lock for 0.2 s with\n    {wanted}" in message
    assert "\nIt is held by the prepared transaction 'the shop''s order 7'" in message
    assert "ROLLBACK PREPARED 'the shop''s order 7'" in message


def test_other_failures_are_left_alone(place: Workplace) -> None:
    """A step that waits for nothing fails as ever."""
    (place.root / "a.sql").write_text("SELECT pg_sleep(0.5);\nSELECT * FROM nowhere;")
    step = parse("sql:a.sql", root=place.root)
    with pytest.raises(BaseError, match=r"failed at a.sql:2"), watched(place, step.label, seconds=0.1):
        step.apply(place)
