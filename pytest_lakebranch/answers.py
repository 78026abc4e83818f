"""What a project's hooks answer, held to what they were asked for; whoever answers otherwise is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.model import Summary


def steps(config: pytest.Config) -> list[str | Callable[..., object]]:
    """The steps of ``pytest_lakebranch_steps``, outer conftest first. Raises ConfigError."""
    found: list[str | Callable[..., object]] = []
    for who, ask in _each(config, "pytest_lakebranch_steps", config=config):
        for answer in ask():
            if not _is_list(answer):
                raise ConfigError(
                    f"pytest_lakebranch_steps of {who} returned {answer!r}: it is to return a list of steps, such as "
                    "['sql:more.sql', load]."
                )
            found += answer
    return found


def report_lines(config: pytest.Config, summary: Summary) -> tuple[list[str], list[str]]:
    """The lines of ``pytest_lakebranch_report``, and a line for each hook that has none to give."""
    lines: list[str] = []
    wrong: list[str] = []
    for who, ask in _each(config, "pytest_lakebranch_report", config=config, summary=summary):
        name = f"pytest_lakebranch_report of {who}"
        try:
            for answer in ask():
                if isinstance(answer, str):
                    lines.append(answer)
                elif _is_list(answer):
                    lines += map(str, answer)
                else:
                    wrong.append(f"{name} returned {answer!r}: it is to return a line, or a list of lines.")
        except Exception as error:  # noqa: BLE001  (the run is over: what it did is to be said all the same)
            first = (str(error).splitlines() or [""])[0]
            wrong.append(f"{name} raised {type(error).__name__}: {first}")
    return lines, wrong


def _is_list(answer: object) -> bool:
    return isinstance(answer, Iterable) and not isinstance(answer, (str, bytes, Mapping))


def _each(config: pytest.Config, hook: str, /, **arguments: Any) -> Iterator[tuple[str, Callable[[], list[Any]]]]:
    """Each implementation of a hook by its plugin's name, in the order in which they were registered."""
    found = {each.plugin_name: each.plugin for each in getattr(config.hook, hook).get_hookimpls()}
    for name, plugin in found.items():
        others = [other for other in found.values() if other is not plugin]
        caller = config.pluginmanager.subset_hook_caller(hook, others)
        yield name, lambda caller=caller: caller(**arguments)  # type: ignore[misc]  # bound now
