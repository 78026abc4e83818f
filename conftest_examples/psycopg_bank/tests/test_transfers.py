"""Money is neither made nor lost, each test on a fresh branch."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest
from bank.transfers import NoMoneyError, balance, pool, transfer


@pytest.mark.parametrize("amount", [1, 50, 100])
def test_transfer(amount):
    """What one has less the other has more, and everybody begins with a hundred."""
    transfer("owner 1", "owner 2", Decimal(amount))
    assert (balance("owner 1"), balance("owner 2")) == (100 - amount, 100 + amount)


def test_too_much():
    """A transfer that fails leaves nothing."""
    with pytest.raises(NoMoneyError):
        transfer("owner 1", "owner 2", Decimal(101))
    assert balance("owner 1") == 100


def test_many_at_once():
    """A hundred transfers in both directions by four threads."""
    pairs = [("owner 1", "owner 2"), ("owner 2", "owner 1")] * 50
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda pair: transfer(*pair, Decimal(1)), pairs))
    assert (balance("owner 1"), balance("owner 2")) == (100, 100)


def test_the_teller_is_no_superuser():
    """Tests connect as the application's role, which may do more only while the base is built."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege), pool.connection() as connection:
        connection.execute("CREATE ROLE thief SUPERUSER")


def test_journal_is_empty(lakebranch_conn):
    """What other tests did is not there."""
    assert lakebranch_conn.execute("SELECT count(*) FROM journal").fetchone() == (0,)
