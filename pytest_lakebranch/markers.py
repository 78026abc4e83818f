"""The markers ``lakebranch`` and ``destructive``: a marker's grammar is a function signature."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args

import pytest

from pytest_lakebranch.errors import ConfigError

Isolation = Literal["test", "rollback", "worker", "run"]
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)
SIGNATURE = 'lakebranch(*, isolation="test", destructive=False, at=None)'
LINES = (
    f'{SIGNATURE}: lease a branch for the test. isolation: "test" (fresh state), "rollback" (a transaction on the '
    'worker\'s branch), "worker" or "run" (a shared branch).',
    "destructive: the test may do anything to its database, and gets a disposable branch.",
    "lakebranch_migrations: given to the checks of migrations, to choose them with -m.",
)
POSITION = r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}"
PER_TEST = frozenset({"lakebranch", "lakebranch_conn", "lakebranch_url", "lakebranch_factory"})
"""Fixtures of one test: whoever asks for one has a lease."""
WIDER = frozenset({"lakebranch_worker", "lakebranch_run"})


class Wish(NamedTuple):
    """What a test's markers ask for."""

    isolation: Isolation = "test"
    destructive: bool = False
    at: str | None = None


def lakebranch(*, isolation: Isolation = "test", destructive: bool = False, at: str | None = None) -> Wish:
    """The signature of the marker; raises ConfigError for values it does not take."""
    if isolation not in ISOLATIONS:
        raise ConfigError(f"isolation={isolation!r} is not one of {', '.join(map(repr, ISOLATIONS))}")
    if not isinstance(destructive, bool):
        raise ConfigError(f"destructive={destructive!r} is neither True nor False")
    if destructive and isolation != "test":
        raise ConfigError(f"a destructive test has a branch of its own: isolation={isolation!r} cannot be had with it")
    _check_at(at, isolation)
    return Wish(isolation, destructive, at)


def _check_at(at: str | None, isolation: Isolation) -> None:
    """A time must say where it is: a naive one means another moment on each machine."""
    if at is None:
        return
    if isolation != "test":
        raise ConfigError(f"a test with at= has a branch of its own: isolation={isolation!r} cannot be had with it")
    if re.fullmatch(POSITION, str(at)):
        return
    try:
        aware = datetime.fromisoformat(at).tzinfo is not None
    except (TypeError, ValueError):
        aware = False
    if not aware:
        raise ConfigError(
            f"at={at!r} is neither a time with its zone, such as '2026-11-01T12:00Z', nor a position in the log, such "
            "as '0/16B3748'"
        )


def wish_of(item: pytest.Item, *, in_use: bool) -> Wish | None:
    """What the item's markers and fixtures ask for; None when it does not concern us.

    ``in_use``: a setting of ours is present, so that a bare ``destructive`` marker means ours and not another
    plugin's. Raises ConfigError naming the test when a marker is written wrongly.
    """
    fixtures = set(getattr(item, "fixturenames", ()))
    destructive = item.get_closest_marker("destructive") is not None
    ours = item.get_closest_marker("lakebranch") is not None or bool(fixtures & (PER_TEST | WIDER))
    if not ours and not (in_use and (destructive or has_class_transaction(item))):
        return None
    merged: dict[str, Any] = {"isolation": "worker"} if has_class_transaction(item) else {}
    for given in reversed(_given(item)):
        if given.get("destructive") and "isolation" not in given:
            merged.pop("isolation", None)
        merged |= given
    return _checked(item, merged)


def _given(item: pytest.Item) -> list[dict[str, Any]]:
    """What the markers of the test itself, of its class, its module and so on say, the closest, which wins, first."""
    found: dict[Any, dict[str, Any]] = {}
    for node, mark in item.iter_markers_with_node():
        if mark.name in ("lakebranch", "destructive"):
            said = _arguments(item, mark) if mark.name == "lakebranch" else {"destructive": True}
            found[node] = said | found.get(node, {})
    return list(found.values())


def has_class_transaction(item: pytest.Item) -> bool:
    """Whether the tests of the item's class share a transaction that is rolled back at its end (Django's TestCase).

    They need one branch for the whole class, which is there before it is set up, and leave nothing in it.
    """
    django = sys.modules.get("django.test")
    kind = getattr(item, "cls", None)
    return django is not None and kind is not None and issubclass(kind, django.TestCase)


def _arguments(item: pytest.Item, mark: pytest.Mark) -> dict[str, Any]:
    try:
        lakebranch(*mark.args, **mark.kwargs)
    except (TypeError, ConfigError) as error:
        raise ConfigError(_wrong(item, str(error))) from None
    return dict(mark.kwargs)


def _checked(item: pytest.Item, arguments: dict[str, Any]) -> Wish:
    try:
        wish = lakebranch(**arguments)
    except ConfigError as error:
        raise ConfigError(_wrong(item, str(error))) from None
    if has_class_transaction(item) and wish.isolation != "worker":
        raise ConfigError(
            f"{item.nodeid}: the tests of a django.test.TestCase share a transaction, and with it the worker's branch: "
            "they can have no other. Derive the class from TransactionTestCase, or take the marker away."
        )
    return wish


def _wrong(item: pytest.Item, what: str) -> str:
    return f"{item.nodeid}: marker lakebranch: {what.removeprefix('lakebranch() ')}. Its signature is {SIGNATURE}."


def needs_lease(item: pytest.Item, wish: Wish | None, *, autouse: bool) -> bool:
    """Whether a lease is to be taken for the test itself, before its own fixtures are set up.

    A test that asks for ``lakebranch_worker`` or ``lakebranch_run`` only has no branch of its own.
    """
    if autouse or (wish is not None and PER_TEST & set(getattr(item, "fixturenames", ()))):
        return True
    return any(True for _ in item.iter_markers("lakebranch")) or (wish is not None and wish.destructive)
