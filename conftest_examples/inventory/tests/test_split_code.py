"""The refactoring Split Column: ``inventory_code`` becomes ``location_code``, ``batch_number``, ``serial_number``.

About one label in a hundred is not of the form LOCATION-BATCH-SERIAL.  Each migration is rehearsed on a branch.
In the data of the seed the serial number is the unit's number and the batch is the week of its receipt: that is how
these tests know the truth.
"""

from datetime import date

import psycopg
import pytest
from inventory import migrate, units
from inventory.db import connect

from pytest_lakebranch import lakebranch_fixture

WRONG = """
    SELECT count(*) FROM units WHERE NOT coalesce(
        location_code IN (SELECT code FROM locations)
        AND (batch_number = 'B' || to_char(received_on, 'IYIW') OR batch_number IS NULL)
        AND left(serial_number, 6) = lpad(unit_id::text, 6, '0'), false)
"""
ODD = "SELECT unit_id, inventory_code FROM units WHERE inventory_code LIKE '%@%' ORDER BY unit_id LIMIT 1"
UNREADABLE = 12
UNITS = 30_000


rehearsal = lakebranch_fixture(scope="module")
"""A branch that lives as long as this module's tests: the first two steps are run on it once, then it is forked."""


@pytest.fixture(scope="module")
def backfilled(rehearsal):
    with rehearsal.connect(autocommit=True) as conn:
        migrate.apply(conn, "001_expand.sql")
        migrate.backfill(conn, "002_backfill.sql", upto=UNITS)
    return rehearsal


@pytest.fixture
def expanded(backfilled):
    """A connection (autocommit) to a branch after the first two steps."""
    with backfilled.fork() as branch, branch.connect(autocommit=True) as conn:
        yield conn


@pytest.fixture
def codes(lakebranch) -> dict[int, str]:
    """What all labels say before the migration."""
    with lakebranch.connect() as conn:
        return dict(conn.execute("SELECT unit_id, inventory_code FROM units").fetchall())


def read_the_unreadable(conn: psycopg.Connection) -> int:
    """Somebody goes, looks, and enters what the unit is."""
    return conn.execute(
        "UPDATE units SET location_code = left(inventory_code, 5), serial_number = right(inventory_code, 6) "
        "WHERE location_code IS NULL"
    ).rowcount


def test_the_naive_migration_is_silently_wrong(lakebranch, codes):
    """It runs without an error on this branch's fork, spoils some hundred rows, and takes away what they said."""
    with lakebranch.fork() as rehearsal, rehearsal.connect(autocommit=True) as conn:
        migrate.apply(conn, "naive/split_code.sql")
        (wrong,) = conn.execute(WRONG).fetchone()
        assert 0.005 < wrong / UNITS < 0.015
        with pytest.raises(psycopg.errors.UndefinedColumn):
            conn.execute("SELECT inventory_code FROM units")
    with lakebranch.connect() as conn:
        assert dict(conn.execute("SELECT unit_id, inventory_code FROM units").fetchall()) == codes


def test_the_naive_migration_with_constraints_stops(lakebranch):
    """Better: the database refuses, and nothing has happened."""
    with lakebranch.connect(autocommit=True) as conn:
        with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation)):
            migrate.apply(conn, "naive/split_code_with_constraints.sql")
        unit, label = conn.execute(ODD).fetchone()
        assert units.find(conn, label)[0] == unit


def test_expand_and_backfill_split_every_label_that_can_be_read(expanded):
    unread = expanded.execute("SELECT unit_id FROM units WHERE location_code IS NULL").fetchall()
    assert len(unread) == UNREADABLE
    assert expanded.execute(WRONG).fetchone() == (UNREADABLE,)


def test_contract_refuses_while_labels_are_unread(expanded):
    with pytest.raises(psycopg.errors.RaiseException, match="12 labels are not split yet"):
        migrate.apply(expanded, "003_contract.sql")
    assert expanded.execute("SELECT count(inventory_code) FROM units").fetchone() == (UNITS,)


def test_every_label_survives_the_whole_migration(expanded, codes):
    assert read_the_unreadable(expanded) == UNREADABLE
    migrate.apply(expanded, "003_contract.sql")

    assert expanded.execute(WRONG).fetchone() == (0,)
    assert dict(expanded.execute("SELECT unit_id, label FROM unit_labels").fetchall()) == codes
    (regular,) = expanded.execute(
        "SELECT count(*) FROM unit_labels JOIN units USING (unit_id) "
        "WHERE label = concat_ws('-', location_code, batch_number, serial_number)"
    ).fetchone()
    assert regular / UNITS > 0.985


def test_each_step_can_be_run_again(expanded):
    """A migration that fails when it is applied again is a bug."""
    migrate.apply(expanded, "001_expand.sql")
    assert migrate.backfill(expanded, "002_backfill.sql", upto=UNITS) == UNREADABLE
    read_the_unreadable(expanded)
    for _ in range(2):
        migrate.apply(expanded, "003_contract.sql")
    assert expanded.execute(WRONG).fetchone() == (0,)


def test_backfill_can_be_interrupted(lakebranch):
    """Half of it is done, the application goes on writing, and the second attempt does the rest."""
    with lakebranch.connect(autocommit=True) as conn:
        migrate.apply(conn, "001_expand.sql")
        migrate.backfill(conn, "002_backfill.sql", upto=UNITS // 2)
        newest = units.register(conn, "P00001", f"L0101-B2501-{UNITS + 1:06}", date(2025, 1, 1))
        migrate.backfill(conn, "002_backfill.sql", upto=newest)
        assert conn.execute("SELECT count(*) FROM units WHERE location_code IS NULL").fetchone() == (UNREADABLE,)


def test_both_releases_write_between_expand_and_contract(lakebranch):
    """The old one knows the code only, the new one the three parts only; each reads what the other wrote."""
    parts = "SELECT location_code, batch_number, serial_number FROM units WHERE unit_id = %s"
    with connect() as conn:
        migrate.apply(conn, "001_expand.sql")
        by_old = units.register(conn, "P00001", "l0101-b2501-900001", date(2025, 1, 1))
        assert conn.execute(parts, [by_old]).fetchone() == ("L0101", "B2501", "900001")

        (by_new,) = conn.execute(
            "INSERT INTO units (product_id, location_code, batch_number, serial_number, received_on) "
            "VALUES (1, 'L0102', 'B2501', '900002', '2025-01-01') RETURNING unit_id"
        ).fetchone()
        assert units.find(conn, "L0102-B2501-900002") == (by_new, "P00001")

        conn.execute("UPDATE units SET location_code = 'H0101' WHERE unit_id = %s", [by_old])
        assert units.find(conn, "H0101-B2501-900001") == (by_old, "P00001")

        unit, label = conn.execute(ODD).fetchone()
        assert units.find(conn, label)[0] == unit  # what nobody changed is found by what its label says


def test_the_old_release_cannot_write_after_contract(expanded):
    """So contract comes last, when no old release runs any more."""
    read_the_unreadable(expanded)
    migrate.apply(expanded, "003_contract.sql")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        units.register(expanded, "P00001", "L0101-B2501-900001", date(2025, 1, 1))


@pytest.mark.lakebranch(isolation="rollback")
@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("L0307-B2417-000123", ("L0307", "B2417", "000123")),
        ("l0307-b2417-000123", ("L0307", "B2417", "000123")),
        ("  L0307-B2417-000123 ", ("L0307", "B2417", "000123")),
        ("L03-07-B2417-000123", ("L0307", "B2417", "000123")),
        ("L0307/B2417/000123", ("L0307", "B2417", "000123")),
        ("L0307-B2417-000123-R", ("L0307", "B2417", "000123-R")),
        ("L0307--000123", ("L0307", None, "000123")),
        ("000123@L0307", ("L0307", None, "000123")),
        ("L0307-?????-000123", (None, None, None)),
        ("L0307-B2417", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_every_shape_of_a_label(lakebranch_conn, code, parts):
    migrate.apply(lakebranch_conn, "001_expand.sql")
    assert lakebranch_conn.execute("SELECT * FROM split_inventory_code(%s)", [code]).fetchone() == parts
