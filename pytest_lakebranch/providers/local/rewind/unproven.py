"""The one way in which rewinding fails."""

from __future__ import annotations


class UnprovenError(Exception):
    """It cannot be proven that the branch would be in its sealed state again; the message is the reason, for a report.

    Reasons are counted: they carry no numbers or names that differ from lease to lease.
    """
