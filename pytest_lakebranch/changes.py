"""What a run says of the schema: how its base differs from where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_lakebranch.errors import ConfigError, LakebranchError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.run import Run
from pytest_lakebranch.schema import elsewhere
from pytest_lakebranch.schema.diff import SchemaDiff, compare
from pytest_lakebranch.schema.files import told
from pytest_lakebranch.schema.model import Schema
from pytest_lakebranch.schema.words import summary
from pytest_lakebranch.state import State
from pytest_lakebranch.steps.source import before_migrations

SOURCE = "source"
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def write_changes(run: Run, environ: Mapping[str, str]) -> tuple[list[str], str]:
    """Write the diff to the files of ``lakebranch_schema_diff``, and to GitHub's job summary if there is one.

    Returns lines for the terminal, and what kept it from being written, if anything. Needs the run's host, which is
    started if no test has asked for it.
    """
    import psycopg

    try:
        diff = diff_of(run)
        paths = [Path(run.settings.root, Path(name).expanduser()) for name in run.settings.schema_diff]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(told(diff, path.suffix), encoding="utf-8", errors="backslashreplace")
        append_summary(diff.markdown(), environ)
    except (LakebranchError, psycopg.Error) as error:
        return [], f"schema diff: not written: {masked(str(error).strip())}"
    except OSError as error:
        return [], f"schema diff: not written: {error.strerror}: {error.filename}"
    return [f"schema diff from {diff.old}: {summary(diff)} ({', '.join(map(str, paths))})"], ""


def append_summary(markdown: str, environ: Mapping[str, str]) -> None:
    """Add to the summary of a job of GitHub Actions (GITHUB_STEP_SUMMARY is a file that steps append to)."""
    if environ.get(STEP_SUMMARY):
        with Path(environ[STEP_SUMMARY]).open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{markdown}\n")


def diff_of(run: Run) -> SchemaDiff:
    """The base of the run, compared with what ``lakebranch_schema_diff_from`` names. Raises LakebranchError."""
    name = run.settings.schema_diff_from
    built_here = name == SOURCE or (name.startswith(elsewhere.REVISION) and run.settings.provider == "local")
    return compare(_before(run, name), run.schema_of(run.base()), old=name, new="base", other_roles=not built_here)


def _before(run: Run, name: str) -> Schema:
    root = Path(run.settings.root)
    if name == SOURCE:
        steps = run.steps(run.entries)
        return run.schema_of(run.base(run.entries[: before_migrations(steps)]))
    if name.startswith(elsewhere.REVISION) and len(run.entries) != len(run.settings.base):
        raise ConfigError(
            f"{name}: the base of another revision is made from lakebranch_base alone, and here "
            f"{len(run.entries) - len(run.settings.base)} more of the steps come from pytest_lakebranch_steps, so that "
            "all they make would count as added. Name them in lakebranch_base."
        )
    found = elsewhere.named(name, root=root, home=State.at(run.settings.home).home)
    return elsewhere.of_file(root / Path(name).expanduser()) if found is None else found
