"""``sql:PATH``: a file of SQL, or a folder whose ``*.sql`` files run in name order, run with psql."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.steps import files, hints, psql
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import base_error
from pytest_lakebranch.steps.includes import included


@dataclass(frozen=True, slots=True)
class SqlStep:
    """Each file runs in a psql of its own, which stops at the first error.

    psql runs in ``root``, or in the file's folder when only there the files exist that it includes.
    """

    label: str
    path: Path
    inputs: files.Inputs
    root: Path

    def fingerprint(self) -> str:
        """Of the contents, in the order in which they run, with everything the files include."""
        parts = [part for file in self._files() for part in self._parts(file)]
        return files.fingerprint("sql", [*parts, "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Run the files; the number of bytes in them."""
        todo = self._files()
        for file in todo:
            failure = psql.run_file(place, file, cwd=self._reads(file)[0])
            if failure:
                raise base_error(self.label, failure, hints.advice(failure.message, place))
        size = files.size_text(sum(file.stat().st_size for file in todo))
        return size if len(todo) == 1 else f"{len(todo)} files, {size}"

    def _files(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        found = sorted(path for path in self.path.glob("*.sql") if path.is_file())
        if not found:
            raise ConfigError(f"{self.label}: the folder {self.path} has no file named *.sql.")
        return found

    def _parts(self, file: Path) -> Iterator[str]:
        yield files.digest(file, self.label)
        for name, path in self._reads(file)[1]:
            yield f"{name} {files.digest(path, self.label) if path.is_file() else 'missing'}"

    def _reads(self, file: Path) -> tuple[Path, list[tuple[str, Path]]]:
        """The directory to run ``file`` in, and the files it reads there."""
        at_root = included(file, cwd=self.root, label=self.label)
        if _missing(at_root):
            beside = included(file, cwd=file.parent, label=self.label)
            if _missing(beside) < _missing(at_root):
                return file.parent, beside
        return self.root, at_root


def _missing(named: list[tuple[str, Path]]) -> int:
    return sum(not path.is_file() for _, path in named)


def parse(label: str, written: str, inputs: files.Inputs) -> SqlStep:
    """The step for ``sql:written``; ConfigError when there is nothing to run."""
    step = SqlStep(label, files.existing(label, written, inputs.root), inputs, inputs.root)
    step._files()
    return step
