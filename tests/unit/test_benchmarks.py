"""What the measurements do with their results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks.measure import Figure


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of former results, in a place of the test's own."""
    (tmp_path / "results.json").write_text(json.dumps([{"what": "a", "value": 1.0}, {"what": "b", "value": 2.0}]))
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path / "results.json")
    return tmp_path


def test_results_of_others_stay(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement that is named replaces its own; all of them together replace all."""

    def figures() -> Iterator[Figure]:
        yield Figure("b", 3.0, "ms", 4.0)
        yield Figure("c", 5.0, "ms")

    monkeypatch.setattr(import_module("benchmarks.unused"), "figures", figures)
    monkeypatch.setattr(benchmarks, "NAMES", ("unused",))
    monkeypatch.setattr("sys.argv", ["benchmarks", "unused"])
    assert benchmarks.main() == 0
    assert [(each["what"], each["value"]) for each in stored(results)] == [("a", 1.0), ("b", 3.0), ("c", 5.0)]
    monkeypatch.setattr("sys.argv", ["benchmarks"])
    assert benchmarks.main() == 0
    assert [each["what"] for each in stored(results)] == ["b", "c"]


def test_a_missed_target_is_the_exit_code(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is written in its line."""
    figure = Figure("b", 3.0, "ms", 2.0)
    assert "MISSED" in figure.line()
    monkeypatch.setattr(import_module("benchmarks.unused"), "figures", lambda: [figure])
    monkeypatch.setattr("sys.argv", ["benchmarks", "unused"])
    assert benchmarks.main() == 1


def stored(results: Path) -> list[dict[str, object]]:
    """What is in the file."""
    found: list[dict[str, object]] = json.loads((results / "results.json").read_text())
    return found
