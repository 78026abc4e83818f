"""A diff as a file: its suffix says how it is told."""

from __future__ import annotations

import json

from pytest_lakebranch.schema.diff import SchemaDiff


def told(diff: SchemaDiff, suffix: str) -> str:
    """``diff`` as Markdown (``.md``), JSON (``.json``) or text."""
    kind = suffix.lower()
    if kind == ".json":
        return json.dumps(diff.to_json(), indent=2, ensure_ascii=False) + "\n"
    return diff.markdown() if kind == ".md" else diff.text()
