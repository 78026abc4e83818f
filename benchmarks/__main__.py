"""``python -m benchmarks [NAME…]``: all measurements, or those named, whose results take the place of former ones.

The exit code is 1 when a target was missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure

NAMES = (
    "unused",
    "leases",
    "branch_start",
    "suite",
    "memory",
    "cli",
    "host",
    "reports",
    "emulator",
    "steps",
    "lakebase",
    "forwarder",
    "schema_diff",
)


RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Measure, print, store."""
    results = []
    for name in sys.argv[1:] or NAMES:
        for figure in import_module(f"benchmarks.{name}").figures():
            print(figure.line(), flush=True)
            results.append(figure)
    former = json.loads(RESULTS.read_text()) if sys.argv[1:] and RESULTS.exists() else []
    RESULTS.write_text(json.dumps(merged(former, results), indent=1, ensure_ascii=False) + "\n")
    return 1 if any(figure.missed for figure in results) else 0


def merged(former: Sequence[Mapping[str, Any]], latest: Sequence[Figure]) -> list[Mapping[str, Any]]:
    """Former results, each replaced by the latest of the same measurement, and what was not measured before."""
    found = {each["what"]: each for each in former}
    return list((found | {figure.what: asdict(figure) for figure in latest}).values())


if __name__ == "__main__":
    sys.exit(main())
