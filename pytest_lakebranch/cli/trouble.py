"""What is said of an error that is no defect of ours."""

from __future__ import annotations

import sys

from pytest_lakebranch.errors import LakebranchError


def message(error: Exception) -> str | None:
    """One message for an error of ours, of the system or of PostgreSQL; None for any other, which is a defect."""
    if isinstance(error, LakebranchError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    psycopg = sys.modules.get("psycopg")  # where it was never imported, it raised nothing
    if psycopg is not None and isinstance(error, psycopg.Error):
        return f"PostgreSQL says: {str(error).strip() or type(error).__name__}"
    return None
