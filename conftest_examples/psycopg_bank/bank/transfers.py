"""Transfers, with a pool that is opened when this module is imported."""

import os
from decimal import Decimal

from psycopg_pool import ConnectionPool

pool = ConnectionPool(
    os.environ["BANK_DSN"], min_size=0, max_size=4, open=True, check=ConnectionPool.check_connection, name="bank"
)


class NoMoneyError(Exception):
    """The giver has too little."""


def transfer(giver: str, taker: str, amount: Decimal) -> None:
    """Move an amount from one account to another; all or nothing."""
    with pool.connection() as connection:
        # Locked in one order, so that two transfers never wait for each other.
        connection.execute("SELECT FROM account WHERE owner IN (%s, %s) ORDER BY owner FOR UPDATE", [giver, taker])
        paid = connection.execute(
            "UPDATE account SET balance = balance - %(n)s WHERE owner = %(o)s AND balance >= %(n)s",
            {"n": amount, "o": giver},
        )
        if not paid.rowcount:
            raise NoMoneyError(giver)
        connection.execute("UPDATE account SET balance = balance + %s WHERE owner = %s", [amount, taker])
        connection.execute("INSERT INTO journal (giver, taker, amount) VALUES (%s, %s, %s)", [giver, taker, amount])


def balance(owner: str) -> Decimal:
    """What an owner has."""
    with pool.connection() as connection:
        row = connection.execute("SELECT balance FROM account WHERE owner = %s", [owner]).fetchone()
    return row[0]
