"""The size of computes and their suspension: read, checked, merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_lakebranch.emulator.clock import duration
from pytest_lakebranch.emulator.limits import (
    LARGEST_CU,
    LARGEST_SPREAD,
    LONGEST_SUSPEND,
    SHORTEST_SUSPEND,
    SMALLEST_CU,
)
from pytest_lakebranch.emulator.refusals import invalid
from pytest_lakebranch.emulator.resources import Sizing

SUSPENSION = {"suspension": ("suspend_timeout_duration", "no_suspension")}


def resized(sizing: Sizing, given: dict[str, Any]) -> Sizing:
    """``sizing`` with what is given; raises ApiError."""
    low = given.get("autoscaling_limit_min_cu", sizing.min_cu)
    high = given.get("autoscaling_limit_max_cu", max(low, sizing.max_cu))
    if "autoscaling_limit_min_cu" not in given:
        low = min(low, high)
    if not SMALLEST_CU <= low <= high <= LARGEST_CU:
        raise invalid(
            f"Field 'autoscaling_limit_max_cu' must be between the minimum and 64, and the minimum at least "
            f"0.5; got {low:g} to {high:g}."
        )
    if high - low > LARGEST_SPREAD:
        raise invalid(
            f"The difference between the minimum and maximum Compute Units must not exceed 16, got {low:g} to {high:g}."
        )
    pg_settings = given.get("pg_settings", sizing.pg_settings)
    return replace(sizing, min_cu=low, max_cu=high, suspend=_suspend(sizing, given), pg_settings=dict(pg_settings))


def _suspend(sizing: Sizing, given: dict[str, Any]) -> float | None:
    timeout, never = given.get("suspend_timeout_duration"), given.get("no_suspension")
    if timeout is not None and never is not None:
        raise invalid("Only one of suspend_timeout_duration and no_suspension can be provided.")
    if never is False:
        raise invalid("Field 'no_suspension' should be set to true when provided.")
    if never:
        return None
    if timeout is None:
        return sizing.suspend
    if not SHORTEST_SUSPEND <= timeout <= LONGEST_SUSPEND:
        raise invalid(f"Field 'suspend_timeout_duration' must be between 60s and 604800s, got {duration(timeout)}.")
    return float(timeout)
