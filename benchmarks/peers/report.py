"""The table and the plot, from the stored results."""

from __future__ import annotations

import os
import platform
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.peers.cases import CASES
from benchmarks.peers.contestants import CONTESTANTS

HERE = Path(__file__).parent
Results = dict[str, dict[str, Any]]
WIDTH, LABEL, BAR, LINE = 860, 260, 470, 20
SHOWN = ("insert", "insert-75mb", "insert-2gb", "ddl")
OURS = "lakebranch"


def write(results: Results) -> None:
    """Renew ``TABLE.md`` and ``peers.svg`` beside this file."""
    (HERE / "TABLE.md").write_text(table(results))
    (HERE / "peers.svg").write_text(plot(results))


def table(results: Results) -> str:
    """Milliseconds per test with set-up and tear-down (median), and the ratio to the floor's."""
    lines = [
        "# Peers",
        "",
        f"Median milliseconds per test, with its set-up, its connection and its tear-down; in brackets, × the floor's. "
        f"Made by `python -m benchmarks.peers` on {os.cpu_count()} processors, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}; the same PostgreSQL binaries for all but pgmem, "
        "which brings its own. –: see below; nothing: not measured.",
        "",
    ]
    for workers in (0, 2):
        lines += [f"## `-n {workers}`", "", "| | " + " | ".join(case.title for case in CASES.values()) + " |"]
        lines += ["|---" * (len(CASES) + 1) + "|"]
        for peer, contestant in CONTESTANTS.items():
            cells = (_cell(results, case, peer, workers) for case in CASES)
            lines.append(f"| {contestant.title} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *_whole(results), *_reasons(results)]) + "\n"


def _cell(results: Results, case: str, peer: str, workers: int) -> str:
    found = results.get(f"{case} {peer} {workers}", {})
    if "ms" not in found:
        return "–" if found else ""
    floor = results.get(f"{case} floor {workers}", {}).get("ms")
    ratio = f" ({found['ms'] / floor:.1f}×)" if floor and peer != "floor" else ""
    return f"{found['ms']:.1f}{ratio}"


def _whole(results: Results) -> list[str]:
    """Whole suites, where the numbers of tests are the same."""
    lines = ["## Whole runs of 300 one-INSERT tests, seconds", "", "| | `-n 0` | `-n 2` (600 tests) |", "|---|---|---|"]
    for peer in ("floor", "lakebranch", "lakebranch-copy", "django-rollback"):
        cells = (results.get(f"insert {peer} {workers}", {}).get("seconds", "") for workers in (0, 2))
        lines.append(f"| {CONTESTANTS[peer].title} | " + " | ".join(map(str, cells)) + " |")
    return [*lines, ""]


def _reasons(results: Results) -> list[str]:
    found = [(key.split()[1], key.split()[0], cell["cannot"]) for key, cell in results.items() if "cannot" in cell]
    lines = dict.fromkeys(f"- {CONTESTANTS[peer].title}, {CASES[case].title}: {why}." for peer, case, why in found)
    return ["## –", "", *lines]


def plot(results: Results) -> str:
    """Bars on a logarithmic scale, a group for each case, without workers."""
    parts, at = [], 30
    for case in SHOWN:
        rows = [(peer, results.get(f"{case} {peer} 0", {}).get("ms")) for peer in CONTESTANTS]
        parts.append(_text(10, at, CASES[case].title, weight="bold"))
        for peer, took in rows:
            if took is None:
                continue
            at += LINE
            width = _scaled(took)
            colour = "#0a7f5a" if peer.startswith(OURS) else "#9aa4ad" if peer == "floor" else "#c46a3a"
            parts.append(_text(LABEL - 8, at, CONTESTANTS[peer].title, anchor="end"))
            parts.append(f'<rect x="{LABEL}" y="{at - 12}" width="{width:.0f}" height="14" fill="{colour}"/>')
            parts.append(_text(LABEL + width + 6, at, f"{took:.3g} ms"))
        at += LINE * 2
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {at}" width="{WIDTH}" height="{at}" '
        'font-family="system-ui, sans-serif" font-size="13"><title>Milliseconds per test, set-up and tear-down '
        'included (logarithmic)</title><rect width="100%" height="100%" fill="white"/>'
    )
    return head + "\n".join(parts) + "</svg>\n"


def _scaled(milliseconds: float) -> float:
    """One millisecond is nothing, and a hundred seconds are the whole width."""
    from math import log10

    return max(2.0, log10(max(milliseconds, 1.0)) / 5 * BAR)


def _text(x: float, y: float, what: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(what)}</text>'
