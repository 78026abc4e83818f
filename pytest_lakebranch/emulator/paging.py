"""Lists in pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from pytest_lakebranch.emulator.limits import LARGEST_PAGE
from pytest_lakebranch.emulator.refusals import invalid

View = dict[str, Any]


def page(items: list[View], key: str, query: Mapping[str, str]) -> View:
    """The part of ``items`` that was asked for, and a token for the next one.

    ``items`` are in an order that does not change: the token names the last one shown, so that what is deleted or
    added meanwhile neither hides nor repeats another.
    """
    size = _size(query.get("page_size", ""))
    start = _start(items, query.get("page_token", ""))
    shown = items[start : start + size]
    answer: View = {key: shown}
    if start + size < len(items):
        answer["next_page_token"] = base64.urlsafe_b64encode(_mark(shown[-1]).encode()).decode()
    return answer


def _size(text: str) -> int:
    try:
        size = int(text or LARGEST_PAGE)
    except ValueError:
        size = -1
    if size < 0:
        raise invalid(f"Field 'page_size' must be a non-negative integer, got '{text}'.")
    return min(size or LARGEST_PAGE, LARGEST_PAGE)


def _start(items: list[View], token: str) -> int:
    if not token:
        return 0
    try:
        mark = base64.urlsafe_b64decode(token.encode()).decode()
    except (ValueError, binascii.Error):
        mark = ""
    if " " not in mark:
        raise invalid(f"Field 'page_token' is not one of ours: '{token}'.")
    return sum(_mark(item) <= mark for item in items)


def _mark(item: View) -> str:
    return f"{item['create_time']} {item['name']}"
