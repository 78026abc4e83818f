"""Every test gets a database of its own that holds what schema.sql made. Run: pytest"""

import psycopg
import pytest


def test_read(lakebranch_conn):
    titles = lakebranch_conn.execute("SELECT title FROM books ORDER BY isbn").fetchall()
    assert titles[0] == ("Clean Code",)
    assert len(titles) == 3


@pytest.mark.parametrize("borrower", ["Ada", "Grace"])
def test_write(lakebranch, borrower):
    """Both tests borrow the last copy: what one of them commits, the other never sees."""
    with lakebranch.connect() as conn:
        conn.execute("UPDATE books SET copies = copies - 1 WHERE isbn = '9780321127426'")
    with lakebranch.connect() as conn:
        (left,) = conn.execute("SELECT copies FROM books WHERE isbn = '9780321127426'").fetchone()
    assert left == 0


def test_write_that_breaks_a_rule(lakebranch_conn):
    with pytest.raises(psycopg.errors.CheckViolation):
        lakebranch_conn.execute("UPDATE books SET copies = -1")


@pytest.mark.destructive
def test_drop_everything(lakebranch):
    """A destructive test gets a disposable server. It may do anything to it: here, drop all there is."""
    with lakebranch.connect(autocommit=True) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        with pytest.raises(psycopg.errors.UndefinedTable):
            conn.execute("SELECT * FROM books")
