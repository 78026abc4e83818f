"""``python -m benchmarks [NAME…]``: all measurements, or those named."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

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
    "schema_diff",
)


def main() -> int:
    """Measure, print, store."""
    results = []
    for name in sys.argv[1:] or NAMES:
        for figure in import_module(f"benchmarks.{name}").figures():
            print(figure.line(), flush=True)
            results.append(asdict(figure))
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
