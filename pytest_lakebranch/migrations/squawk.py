"""Squawk, a linter of migrations that is kept up to date, over the statements that a migration executed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.migrations.rules import Finding

CHOSEN = (
    "adding-foreign-key-constraint",
    "adding-serial-primary-key-field",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "renaming-column",
    "renaming-table",
    "require-concurrent-index-deletion",
    "syntax-error",
)
"""Those of its rules that are about locks and about applications of the version before, and that we do not measure;
and what it could not read, of which it knows nothing.
"""
CONFIG = ".squawk.toml"


def program() -> str | None:
    """Where it is installed: in this environment, or on the path."""
    here = Path(sys.executable).with_name("squawk")
    return str(here) if here.exists() else shutil.which("squawk")


def findings(statements: Sequence[str], *, root: Path) -> Iterator[Finding]:
    """What it finds; nothing where it is not installed. A project's own ``.squawk.toml`` chooses other rules.

    MachineError with its own words when it does not work.
    """
    found = program()
    if found is None or not statements:
        return
    own = root / CONFIG
    options = ("--config", str(own)) if own.exists() else ()
    done = subprocess.run(
        [found, *options, "--reporter", "json", "--stdin-filepath", "migration.sql"],
        input="".join(f"{statement}\n;\n" for statement in statements),  # it may end in a comment
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    for one in _told(done):
        if own.exists() or one["rule_name"] in CHOSEN:
            yield Finding(one["rule_name"], one["message"], one.get("help") or "")


def _told(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Its findings: it ends with status 1 when there are any."""
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout or ("" if done.returncode else "[]"))
    except ValueError:
        said = (done.stderr or done.stdout).strip() or "it said nothing"
        raise MachineError(f"squawk failed with status {done.returncode}: {said}") from None
    return found
