"""What ``sql:`` steps do with psql's own features, and with files that would lose their work."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from step_servers import Server, rows

from pytest_lakebranch.errors import BaseError, MachineError
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]


def write(root: Path, **texts: str) -> None:
    """Files below ``root``: ``db__a_sql`` is db/a.sql."""
    for name, text in texts.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize("directory", ["root", "db"])
def test_includes_are_found_from_the_root_or_beside_the_file(place: Workplace, directory: str) -> None:
    """psql runs where the files exist that the file includes, as the user would have run it."""
    prefix = "db/" if directory == "root" else ""
    main = f"\\i {prefix}table.sql\n\\ir rows.sql\n\\copy item from '{prefix}more.csv' csv\n"
    write(place.root, db__main_sql=main, db__table_sql="CREATE TABLE item (id int);", db__rows_sql="INSERT INTO item")
    (place.root / "db" / "rows.sql").write_text("INSERT INTO item VALUES (1);")
    (place.root / "db" / "more.csv").write_text("2\n3\n")
    parse("sql:db/main.sql", root=place.root).apply(place)
    assert rows(place, "SELECT sum(id) FROM item") == [(6,)]


def test_error_in_an_included_file_is_located_there(place: Workplace) -> None:
    """The message names the file that holds the statement, not the one that includes it."""
    write(place.root, main_sql="\\ir db/bad.sql\n", db__bad_sql="SELECT 1;\nSELECT *\nFROM nowhere;\n")
    with pytest.raises(BaseError, match=r"sql:main.sql failed at db/bad.sql:3:\n    ERROR:  relation \"nowhere\""):
        parse("sql:main.sql", root=place.root).apply(place)


def test_error_after_notices_is_the_one_shown(place: Workplace) -> None:
    """Notices come before the error and are no part of the message."""
    write(place.root, a_sql="DO $$BEGIN RAISE NOTICE 'hello'; END$$;\n\\i missing.sql\n")
    with pytest.raises(BaseError) as caught:
        parse("sql:a.sql", root=place.root).apply(place)
    assert str(caught.value) == "sql:a.sql failed at a.sql:2:\n    missing.sql: No such file or directory"


def test_long_statement_is_shortened(place: Workplace) -> None:
    """A statement of a thousand rows does not fill the terminal."""
    values = ",\n".join(f"({number})" for number in range(1000))
    write(place.root, a_sql=f"INSERT INTO nowhere VALUES\n{values};\n")
    with pytest.raises(BaseError, match=r"… \(991 more lines\)$") as caught:
        parse("sql:a.sql", root=place.root).apply(place)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("begin", ["BEGIN;", "\\set AUTOCOMMIT off"])
def test_file_that_ends_inside_a_transaction_is_refused(place: Workplace, begin: str) -> None:
    """Without its COMMIT a file's changes would vanish silently."""
    write(place.root, a_sql=f"{begin}\nCREATE TABLE item (id int);\n")
    with pytest.raises(BaseError, match=r"the end of a.sql:\n    the file ends inside a transaction"):
        parse("sql:a.sql", root=place.root).apply(place)


def test_server_that_ends_the_connection_is_quoted(place: Workplace) -> None:
    """The reason that the server gave is shown, not only that the connection is lost."""
    write(place.root, a_sql="SELECT pg_terminate_backend(pg_backend_pid());\n")
    with pytest.raises(BaseError, match=r"a.sql:1:\n    FATAL:  terminating connection due to administrator"):
        parse("sql:a.sql", root=place.root).apply(place)


def test_bytes_that_are_no_text_are_shown(place: Workplace) -> None:
    """A file in another encoding fails with the server's message, not with one of ours about decoding."""
    (place.root / "latin.sql").write_bytes("SELECT 'Müller';\n".encode("latin-1"))
    with pytest.raises(BaseError, match=r"latin.sql:1:\n    ERROR:  invalid byte sequence for encoding \"UTF8\""):
        parse("sql:latin.sql", root=place.root).apply(place)


def test_without_psql_the_package_is_named(tmp_path: Path, embedded_server: Server) -> None:
    """An installation without client programs is the machine's fault, and the message says what to install."""
    write(tmp_path, a_sql="SELECT 1;")
    place = Workplace(embedded_server.place(tmp_path).endpoint, Binaries(tmp_path, "16.4", "system"), tmp_path)
    with pytest.raises(MachineError, match=r"has no psql.*postgresql-client-16"):
        parse("sql:a.sql", root=tmp_path).apply(place)


def test_interrupt_ends_psql_and_its_statement(embedded_server: Server, tmp_path: Path) -> None:
    """Ctrl-C leaves neither a child process nor a statement that goes on in the server."""
    place = embedded_server.place(tmp_path)
    write(tmp_path, a_sql="SELECT pg_sleep(60);")
    began = time.monotonic()

    def interrupt() -> None:
        while not sleeping(embedded_server):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        parse("sql:a.sql", root=tmp_path).apply(place)
    assert embedded_server.clients_of(place) == 0
    assert time.monotonic() - began < 10


def sleeping(server: Server) -> bool:
    """Whether a statement of a step sleeps."""
    with server.connect() as conn:
        query = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'"
        return conn.execute(query).fetchone() is not None
