"""The report files of a run."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.config import Settings
from pytest_lakebranch.model import ProviderFacts, Summary

LOST = "the host is gone, and what it knew of the run with it"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one report; ``failure`` says why there is none, and is empty when there is one."""

    path: Path
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What every kind of report tells: a run and what its host says of it. ``root`` is the project's directory."""

    run: str
    root: str
    summary: Summary


def nothing(facts: ProviderFacts) -> Summary:
    """Of a run in which nobody asked for a branch."""
    now = time.time()
    return Summary(facts, (), (), now, now)


def write_reports(settings: Settings, summary: Summary | None, *, run: str) -> tuple[Written, ...]:
    """Write every report that was asked for; never raises because of a file."""
    paths = [Path(settings.root, Path(name).expanduser()) for name in settings.report]
    if summary is None:
        return tuple(Written(path, LOST) for path in paths)
    report = Report(run, settings.root, summary)
    return tuple(Written(path, _write(path, report)) for path in paths)


def _write(path: Path, report: Report) -> str:
    """Replace the file at once, so that nobody reads half of it; return why that was not possible, or nothing."""
    fresh = path.with_name(f".lakebranch.{os.getpid()}")  # the report's name may have no room for more
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(_text(path, report), encoding="utf-8", errors="backslashreplace")
        fresh.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what kept it from being written keeps it from being removed
            fresh.unlink()
        place = f" ({error.filename})" if error.filename not in (None, str(path), str(fresh)) else ""
        return f"{error.strerror}{place}"
    return ""


def _text(path: Path, report: Report) -> str:
    if path.suffix.lower() == ".html":
        from pytest_lakebranch.reporting.page import page

        return page(report)
    from pytest_lakebranch.reporting.record import record

    return record(report)
