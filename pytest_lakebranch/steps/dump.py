"""``dump:PATH``: what pg_dump wrote, in any of its four formats."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch import amounts
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps import archive, files, hints, programs, psql, roles
from pytest_lakebranch.steps.archive import Archive
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure, base_error

CLOSED = re.compile(r"REVOKE (?:ALL|USAGE) ON SCHEMA public FROM PUBLIC;")
MADE = "CREATE SCHEMA public;"
MOST_JOBS = 8
"""More connections than that at once gain little and come near a branch's max_connections."""


@dataclass(frozen=True, slots=True)
class DumpStep:
    """Plain dumps run with psql, archives with pg_restore; the format is decided by content, not by name."""

    label: str
    path: Path
    inputs: files.Inputs

    def fingerprint(self) -> str:
        """Of the content; for the directory format of every file in it, with its name."""
        parts = [f"{files.shown(path, self.path)} {self.inputs.digest(path)}" for path in self._files()]
        return files.fingerprint("dump", [*parts, "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Restore the dump; the number of bytes in it."""
        what = archive.read(self.path, self.label)
        written = self._definitions(what, place)
        makes_public = what.makes_public if what.format == "plain" else make_public(written)
        if makes_public:
            make_way_for_public(place)
        failure = self._restored(what, place)
        if failure:
            raise base_error(self.label, failure, _advice(failure, what, written, place))
        if makes_public:
            open_public(written, place)
        return amounts.size_text(sum(path.stat().st_size for path in self._files()))

    def _restored(self, what: Archive, place: Workplace) -> Failure | None:
        if what.format == "plain":
            return psql.run_file(place, self.path, cwd=place.root)
        return restore(self.path, place, parallel=what.format != "tar")

    def _definitions(self, what: Archive, place: Workplace) -> Iterable[str]:
        """The dump's SQL, line by line, once; of an archive without the data."""
        return _lines(self.path) if what.format == "plain" else definitions(self.path, place)

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        return sorted(path for path in self.path.iterdir() if path.is_file())


def _advice(failure: Failure, what: Archive, written: Iterable[str], place: Workplace) -> str:
    if archive.major(what.maker) > place.binaries.major:
        return hints.newer_postgres(what.maker, place)
    if hints.ABSENT_ROLE.search(failure.message):
        absent = roles.missing(written, place)
        if absent:
            return hints.missing_roles(absent)
    return hints.advice(failure.message, place)


def _lines(path: Path) -> Iterator[str]:
    with path.open(errors="replace") as lines:
        yield from lines


def jobs() -> int:
    """How many connections to use at once."""
    return min(MOST_JOBS, max(2, os.cpu_count() or 1))


def restore(path: Path, place: Workplace, *options: str, parallel: bool = True, stop: bool = True) -> Failure | None:
    """Restore an archive with pg_restore, until its first error unless that is not to ``stop`` it.

    It refuses several jobs for tar, whose members cannot be reached out of order.
    """
    how = [f"--jobs={jobs() if parallel else 1}", *(["--exit-on-error"] if stop else []), *options]
    done = programs.run(place, "pg_restore", *programs.connected(place), *how, str(path), cwd=place.root)
    return _failure(done.errors, files.shown(path, place.root), done.status) if done.status else None


def contents(path: Path, place: Workplace) -> list[str]:
    """An archive's table of contents, in pg_restore's words."""
    return programs.run(place, "pg_restore", "--list", str(path), cwd=place.root, output=True).output.splitlines()


def listed(lines: list[str], path: Path) -> str:
    """The option of pg_restore that has it restore only these lines of the table of contents, which ``path`` holds."""
    path.write_text("\n".join(lines) + "\n")
    return f"--use-list={path}"


def definitions(path: Path, place: Workplace) -> list[str]:
    """An archive's SQL without the data, line by line."""
    script = ("--schema-only", "--file=-", str(path))
    return programs.run(place, "pg_restore", *script, cwd=place.root, output=True).output.splitlines()


def make_public(definitions: Iterable[str]) -> bool:
    """Whether an archive creates the schema ``public``.

    Its table of contents does not tell: a schema of which only owner or rights are unusual is in it too.
    """
    return MADE in definitions


def make_way_for_public(place: Workplace) -> None:
    """Remove the schema ``public`` of a new database, for a dump that makes it (``pg_dump --schema=public`` does).

    It stays if an earlier step filled it: the dump fails then, and says that it exists.
    """
    from psycopg.errors import DependentObjectsStillExist

    with closing(connect(place.endpoint, autocommit=True)) as conn, suppress(DependentObjectsStillExist):
        conn.execute("DROP SCHEMA IF EXISTS public")


def open_public(definitions: Iterable[str], place: Workplace) -> None:
    """Let everybody use the schema ``public`` that a dump has made, unless the dump takes that away.

    pg_dump tells the rights on it as they differ from those in a new database, also where it makes the schema.
    """
    if not any(CLOSED.fullmatch(line.strip()) for line in definitions):
        with closing(connect(place.endpoint, autocommit=True)) as conn:
            conn.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


def _failure(errors: str, where: str, status: int) -> Failure:
    """The first error: with several jobs, others follow from it."""
    entries = [entry.strip() for entry in re.split(r"^pg_restore: ", errors, flags=re.MULTILINE)]
    first = next((entry for entry in entries if entry.startswith("error: ")), errors.strip() or f"status {status}")
    message, _, statement = first.removeprefix("error: ").partition("\nCommand was: ")
    return Failure(where, message.removeprefix("could not execute query: "), statement)


def parse(label: str, written: str, inputs: files.Inputs) -> DumpStep:
    """The step for ``dump:written``; ConfigError when that is no dump."""
    path = files.existing(label, written, inputs.root)
    archive.read(path, label)
    return DumpStep(label, path, inputs)
