"""Sizes and numbered names, as people write and read them."""

from __future__ import annotations

import pytest

from pytest_lakebranch.amounts import natural, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (599_213, "599 kB"),
        (999_700, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (9_960_000, "10 MB"),
        (3 * 10**12, "3.0 TB"),
        (3 * 10**16, "30000 TB"),
    ],
)
def test_sizes_are_short(count: int, text: str) -> None:
    """Sizes are shown in at most four characters and a unit, while there is one."""
    assert size_text(count) == text


def test_names_with_numbers() -> None:
    """Digits count as numbers; what only looks like a digit is a letter."""
    names = ["gw10", "gw9", "main", "10_b", "9_a", "area²", "²"]
    assert sorted(names, key=natural) == ["9_a", "10_b", "area²", "gw9", "gw10", "main", "²"]
