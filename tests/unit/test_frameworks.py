"""What pools of loaded libraries are told when a branch goes: nothing about connections that are not ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy
from sqlalchemy.pool import QueuePool

from pytest_lakebranch.frameworks import Frameworks


@pytest.fixture
def frameworks() -> Iterator[Frameworks]:
    """Attending to whatever connects below /tmp/sockets."""
    attending = Frameworks(("/tmp/sockets",))
    attending.attend()
    yield attending
    attending.leave()


def pooled(name: str) -> sqlalchemy.Engine:
    """An engine with a pool of one connection to an SQLite database, which has this name in its address."""
    return sqlalchemy.create_engine(f"sqlite:///file:{name}?mode=memory&uri=true", poolclass=QueuePool, pool_size=1)


def test_a_connection_elsewhere_is_left_alone(frameworks: Frameworks) -> None:
    """A table in memory survives: its connection is not replaced."""
    engine = pooled("elsewhere")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x int)")
    frameworks.discard()
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM t")


def test_a_connection_to_a_branch_is_replaced(frameworks: Frameworks) -> None:
    """The pool makes a new one at the next checkout."""
    engine = pooled("/tmp/sockets/x")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x int)")
    frameworks.discard()
    with engine.connect() as connection, pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
        connection.exec_driver_sql("SELECT * FROM t")
