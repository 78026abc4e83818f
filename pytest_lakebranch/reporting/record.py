"""The report for programs: JSON as ``report.schema.json`` describes it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pytest_lakebranch import __version__
from pytest_lakebranch.model import Summary

if TYPE_CHECKING:
    from pytest_lakebranch.reporting.files import Report

VERSION = 1
"""Of the schema: it changes when a key is renamed or removed, not when one is added."""


def record(report: Report) -> str:
    """The report as JSON."""
    summary = asdict(report.summary)
    facts = {
        "version": VERSION,
        "generator": f"pytest-lakebranch {__version__}",
        "run": {"id": report.run, "root": report.root, "began": summary.pop("began"), "ended": summary.pop("ended")},
        "provider": summary.pop("facts"),
        "totals": _totals(report.summary),
        **summary,
    }
    return json.dumps(facts, indent=1) + "\n"


def _totals(summary: Summary) -> dict[str, Any]:
    ends = [lease.end for lease in summary.leases if lease.end]
    return {
        "leases": len(summary.leases),
        "endings": {"clean": 0, "rewind": 0, "replace": 0, "keep": 0} | Counter(end.ending for end in ends),
        "waited": sum(lease.waited for lease in summary.leases),
        "connections": sum(end.connections for end in ends),
    }
