"""From what the user wrote to steps, before the first test: what does not exist is refused here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from pytest_lakebranch.config import Settings
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import placeholders
from pytest_lakebranch.state import State
from pytest_lakebranch.steps import alembic, command, django, dump, files, postgres, python, sql
from pytest_lakebranch.steps.base import Seed, Step
from pytest_lakebranch.steps.files import Application, Inputs
from pytest_lakebranch.steps.notes import Notes

Entry = str | Seed | Step

KINDS: dict[str, Callable[[str, str, Inputs], Step]] = {
    "sql": sql.parse,
    "dump": dump.parse,
    "alembic": alembic.parse,
    "django": django.parse,
    "command": command.parse,
    "postgres": postgres.parse,
    "python": python.parse,
}
GRAMMAR = (
    "Kinds are sql:PATH, dump:PATH, alembic:INI[@REVISION], django:SETTINGS_MODULE, command:PROGRAM ARGUMENTS "
    "inputs=GLOB,…, postgres:ENV_NAME and python:PKG.MOD:CALLABLE; any may end in ' inputs=GLOB,…'."
)
_SUFFIX = re.compile(r"^(?P<what>.*?)(?:\s+inputs=(?P<globs>.*))?$", re.DOTALL)


def parse_all(entries: Iterable[Entry], settings: Settings, seat: Endpoint | None = None) -> tuple[Step, ...]:
    """The steps for all entries, in their order; ConfigError for the first that is wrong.

    ``seat`` is where the variables of ``lakebranch_env`` lead in this process, if it has such a place.
    """
    notes = Notes(State.at(settings.home).notes)
    port = seat if settings.listen == "tcp" else None
    application = Application(settings.user, settings.database, partial(variables, settings), port)
    return tuple(parse(entry, root=Path(settings.root), notes=notes, application=application) for entry in entries)


def refuse_left_out(steps: Sequence[Step]) -> None:
    """ConfigError when of all steps of a base none uses a file of SQL that lies below a folder of SQL: it looks as if
    it were run.
    """
    for step in (one for one in steps if isinstance(one, sql.SqlFolder)):
        left = step.left_out()
        for other in steps if left else ():
            used = tuple(_used(other, itself=other is step))
            left = {file for file in left if not any(file.is_relative_to(one) for one in used)}
        if left:
            raise _left_out(step, min(left))


def _used(step: Step, *, itself: bool) -> Iterator[Path]:
    """Files and folders that a step runs, reads or declares; its own folder counts for the others only."""
    path, inputs = getattr(step, "path", None), getattr(step, "inputs", None)
    yield from inputs.files() if isinstance(inputs, Inputs) else ()
    yield from getattr(step, "own", ())
    yield from step.reads() if isinstance(step, sql.SqlStep | sql.SqlFolder) else ()
    yield from [path] if isinstance(path, Path) and not itself else ()


def _left_out(step: sql.SqlFolder, file: Path) -> ConfigError:
    root = step.inputs.root
    return ConfigError(
        f"{step.label}: {files.shown(file, root)} is not run: in folders of the folder only Flyway's names (V1__x.sql) "
        "count. Include it (\\ir), make its folder a step of its own, move it elsewhere, or say that it is known: "
        f"inputs={files.shown(file.parent, root)}/*."
    )


def variables(settings: Settings, endpoint: Endpoint) -> Mapping[str, str]:
    """What the variables of ``lakebranch_env`` must be to lead to an endpoint.

    A loopback port is led there by this process already: then they are as they are.
    """
    found = settings.variables(placeholders(endpoint))
    if settings.listen == "tcp":
        return {name: os.environ[name] for name in found if name in os.environ}
    return found


def parse(entry: Entry, *, root: Path, notes: Notes | None = None, application: Application | None = None) -> Step:
    """The step for one entry: a string ``KIND:WHAT``, a callable, or an object that is a step already.

    Whatever it names must exist; nothing is imported, run or connected to.  Raises ConfigError.
    """
    if isinstance(entry, str):
        surroundings = (Path(root).absolute(), notes or Notes(), application or Application())
        return _from_text(entry, surroundings)
    if isinstance(entry, type):
        raise ConfigError(f"the step {entry.__qualname__} is a class. Give an object of it, or a function. {GRAMMAR}")
    if _is_step(entry):
        return entry
    if callable(entry):
        return python.from_callable(entry)
    raise ConfigError(f"{entry!r} is not a step: neither a string, a callable nor a Step. {GRAMMAR}")


def _is_step(entry: Any) -> TypeGuard[Step]:
    return all(hasattr(entry, name) for name in ("label", "fingerprint", "apply"))


def _from_text(entry: str, surroundings: tuple[Path, Notes, Application]) -> Step:
    root = surroundings[0]
    match = _SUFFIX.match(entry.strip())
    what, globs = (match["what"], match["globs"]) if match else (entry, None)
    kind, colon, written = what.partition(":")
    if not colon or kind not in KINDS:
        raise ConfigError(f"{entry!r} is not a step{_why(kind, colon, root)} {GRAMMAR}")
    if not written:
        raise ConfigError(f"{entry!r} is not a step: nothing follows {kind}:. {GRAMMAR}")
    inputs = Inputs(entry, _globs(entry, globs), *surroundings)
    list(inputs.files())
    return KINDS[kind](entry, written, inputs)


def _globs(entry: str, written: str | None) -> tuple[str, ...]:
    if written is None:
        return ()
    found = tuple(text.strip() for text in written.split(","))
    if not all(found):
        raise ConfigError(f"{entry}: inputs= has an empty glob.")
    return found


def _why(kind: str, colon: str, root: Path) -> str:
    if not colon and (root / kind).exists():
        suffix = "sql" if (root / kind).is_dir() or kind.endswith(".sql") else "dump"
        return f": it names no kind. Did you mean '{suffix}:{kind}'?"
    near = get_close_matches(kind, KINDS, n=1)
    mean = f" Did you mean {near[0]}:?" if near else ""
    return f": there is no kind {kind!r}.{mean}" if colon else f": it names no kind.{mean}"
