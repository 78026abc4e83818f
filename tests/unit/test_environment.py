"""The application's place to connect to, and the variables that lead there."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pytest_lakebranch.config import resolve
from pytest_lakebranch.environment import OUTSIDE, Seat

STRAY = {"PGHOSTADDR": "127.0.0.1", "PGOPTIONS": "-c x=y", "PGSERVICE": "elsewhere", "OTHER": "stays", "DSN": "mine"}


def test_variables_that_would_win_over_a_template_are_away_meanwhile() -> None:
    """A stray PGHOSTADDR cannot send a client past the refusing listener; afterwards everything is as before."""
    environ = dict(STRAY)
    ini = {"env": ["DSN=host={host} port={port} user={user} dbname={database}"]}
    seat = Seat(resolve(options={}, environ={}, ini=ini, root=Path("/")))
    seat.export(environ)
    assert set(environ) == {"OTHER", "DSN"}
    with pytest.raises(psycopg.OperationalError, match=OUTSIDE):
        psycopg.connect(environ["DSN"])
    seat.close(environ)
    assert environ == STRAY
