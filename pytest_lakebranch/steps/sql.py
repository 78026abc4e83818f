"""``sql:PATH``: a file of SQL, or a folder whose ``*.sql`` files run in order, run with psql."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch import amounts
from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.steps import files, folder, hints, psql
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import base_error
from pytest_lakebranch.steps.includes import included


@dataclass(frozen=True, slots=True)
class SqlStep:
    """One file, which runs in a psql that stops at the first error.

    psql runs in ``root``, or in the file's folder when only there the files exist that it includes.
    """

    label: str
    path: Path
    inputs: files.Inputs

    def fingerprint(self) -> str:
        """Of the content, with everything the file includes."""
        return files.fingerprint("sql", [*_parts(self.path, self.inputs), "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Run the file; the number of bytes in it."""
        return _run(self.label, self.path, self.inputs, place)

    def reads(self) -> Iterator[Path]:
        """The files that it includes."""
        return (path for _, path in _reads(self.path, self.inputs)[1])


@dataclass(frozen=True, slots=True)
class SqlMigration:
    """One file of a folder."""

    label: str
    entry: folder.Entry
    inputs: files.Inputs
    content: str

    @property
    def revision(self) -> str:
        """The version in the file's name; its whole name where that has none, or others have the same."""
        return self.entry.revision

    @property
    def name(self) -> str:
        """What follows the version in the file's name."""
        return self.entry.name

    @property
    def source(self) -> Path:
        """The file."""
        return self.entry.file

    @property
    def reversible(self) -> bool:
        """Whether there is a file that undoes it (``NAME.down.sql``, ``U1__NAME.sql``)."""
        return self.entry.undo is not None

    def fingerprint(self) -> str:
        """Of the content, with everything the file includes, and of the declared inputs."""
        return self.content

    def apply(self, place: Workplace) -> str:
        """Run the file; the number of bytes in it."""
        return _run(self.label, self.source, self.inputs, place)

    def rollback(self, place: Workplace) -> str:
        """Run the file that undoes it."""
        if self.entry.undo is None:
            raise BaseError(f"{self.label}: no file undoes it, such as {self.source.stem}.down.sql beside it.")
        return _run(self.label, self.entry.undo, self.inputs, place)


@dataclass(frozen=True, slots=True)
class SqlFolder:
    """All ``*.sql`` files of a folder, each a migration; see ``folder`` for which these are, and their order."""

    label: str
    path: Path
    inputs: files.Inputs

    def units(self) -> Sequence[SqlMigration]:
        """One for each file to run; the files are read again only when one of them has changed."""
        entries = folder.entries(self.path, self.label)
        note = self.inputs.notes.remember(f"sql {self.path} {self.inputs.root}", lambda: self._read(entries))
        declared = self.inputs.digests()
        return [
            SqlMigration(
                f"{self.label} {entry.file.name}", entry, self.inputs, files.fingerprint("sql", [*parts, *declared])
            )
            for entry, parts in zip(entries, note.value, strict=True)
        ]

    def _read(self, entries: list[folder.Entry]) -> tuple[list[list[str]], list[Path], list[str]]:
        """What each file consists of, and all files that this depends on."""
        for entry in entries:
            folder.check_sections(entry.file, entry.file.read_bytes(), self.label)
        named = [_reads(entry.file, self.inputs)[1] for entry in entries]
        parts = [
            [*_content(entry.file, others, self.inputs), "inputs"] for entry, others in zip(entries, named, strict=True)
        ]
        read = [path for others in named for _, path in others]
        return parts, [*folder.folders(self.path, self.label), *(entry.file for entry in entries), *read], []

    def left_out(self) -> set[Path]:
        """Files of SQL in folders of the folder that this step does not run; it may include them."""
        return folder.left_out(self.path, self.label)

    def reads(self) -> Iterator[Path]:
        """The files that those of the folder include."""
        for entry in folder.entries(self.path, self.label):
            yield from (path for _, path in _reads(entry.file, self.inputs)[1])

    def fingerprint(self) -> str:
        """Of all files, in the order in which they run."""
        return files.fingerprint("sql folder", [unit.fingerprint() for unit in self.units()])

    def apply(self, place: Workplace) -> str:
        """Run all files."""
        return self.apply_units(0, len(self.units()), place)

    def apply_units(self, first: int, count: int, place: Workplace) -> str:
        """Run some of the files; their number and size."""
        todo = self.units()[first : first + count]
        for unit in todo:
            _run(self.label, unit.source, self.inputs, place)
        size = amounts.size_text(sum(unit.source.stat().st_size for unit in todo))
        return size if len(todo) == 1 else f"{len(todo)} files, {size}"

    def open(self) -> AbstractContextManager[None]:
        """Nothing is loaded that could be kept."""
        return nullcontext()


def _run(label: str, file: Path, inputs: files.Inputs, place: Workplace) -> str:
    failure = psql.run_file(place, file, cwd=_reads(file, inputs)[0])
    if failure:
        raise base_error(label, failure, hints.advice(failure.message, place))
    return amounts.size_text(file.stat().st_size)


def _parts(file: Path, inputs: files.Inputs) -> Iterator[str]:
    return _content(file, _reads(file, inputs)[1], inputs)


def _content(file: Path, others: list[tuple[str, Path]], inputs: files.Inputs) -> Iterator[str]:
    yield inputs.digest(file)
    for name, path in others:
        yield f"{name} {inputs.digest(path) if path.is_file() else 'missing'}"


def _reads(file: Path, inputs: files.Inputs) -> tuple[Path, list[tuple[str, Path]]]:
    """The directory to run ``file`` in, and the files it reads there."""
    at_root = included(file, cwd=inputs.root, label=inputs.label)
    if _missing(at_root):
        beside = included(file, cwd=file.parent, label=inputs.label)
        if _missing(beside) < _missing(at_root):
            return file.parent, beside
    return inputs.root, at_root


def _missing(named: list[tuple[str, Path]]) -> int:
    return sum(not path.is_file() for _, path in named)


def parse(label: str, written: str, inputs: files.Inputs) -> SqlStep | SqlFolder:
    """The step for ``sql:written``; ConfigError when there is nothing to run."""
    path = files.existing(label, written, inputs.root)
    if not path.is_dir():
        return SqlStep(label, path, inputs)
    folder.entries(path, label)
    return SqlFolder(label, path, inputs)
