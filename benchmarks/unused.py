"""What the plugin costs a run that does not use it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.measure import Figure, median, milliseconds, run_pytest, workplace

ROUNDS = 21


def figures() -> Iterator[Figure]:
    """``pytest --collect-only`` of an empty file, with the plugin and with ``-p no:lakebranch``, in turn."""
    with workplace() as project:
        (project / "test_empty.py").write_text("")
        with_it, without = [], []
        for _ in range(ROUNDS):
            without.append(milliseconds(lambda: run_pytest(project, "--collect-only", "-p", "no:lakebranch")))
            with_it.append(milliseconds(lambda: run_pytest(project, "--collect-only")))
        differences = [one - other for one, other in zip(with_it, without, strict=True)]
    yield Figure("pytest --collect-only of an empty file, -p no:lakebranch", median(without), "ms")
    yield Figure("installed but unused: added to it", median(differences), "ms", 10)
