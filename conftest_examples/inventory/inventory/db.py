"""The application's way to its database, read once, at import, as most back-ends do."""

import os
from typing import Any

import psycopg

DATABASE_URL = os.environ["DATABASE_URL"]

Connection = psycopg.Connection[tuple[Any, ...]]


def connect() -> Connection:
    """A connection for one unit of work: ``with connect() as conn:`` commits at its end."""
    return psycopg.connect(DATABASE_URL, application_name="inventory")
