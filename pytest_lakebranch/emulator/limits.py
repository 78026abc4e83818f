"""What the service allows: its published limits, any of which a test may want lower."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Limits:
    """Numbers of things and spans in seconds; None is without limit."""

    projects: int = 1000
    branches: int = 500
    unarchived_branches: int | None = None
    active_computes: int = 20
    protected_branches: int = 1
    snapshots: int = 10
    roles: int = 500
    databases: int = 500
    branch_ttl: float = 30 * 86400.0
    kept_after_delete: float = 7 * 86400.0


SHORTEST_CREDENTIAL, LONGEST_CREDENTIAL = 300.0, 3600.0
SHORTEST_SUSPEND, LONGEST_SUSPEND = 60.0, 604800.0
SMALLEST_CU, LARGEST_CU, LARGEST_SPREAD = 0.5, 64.0, 16.0
SHORTEST_HISTORY, LONGEST_HISTORY = 172800.0, 3024000.0
LARGEST_PAGE = 100
