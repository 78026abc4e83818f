"""``command:./migrate.sh --all``: a program of the project's own that migrates the database it is led to."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.steps import files, hints, programs
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import indented
from pytest_lakebranch.steps.toolbox import application_environment

LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class CommandStep:
    """Runs in ``root``, without a shell. ``own`` are the files that the command itself names."""

    label: str
    words: tuple[str, ...]
    own: tuple[Path, ...]
    inputs: files.Inputs

    def fingerprint(self) -> str:
        """Of the command, of the files that it names, and of those declared with ``inputs=``."""
        own = [f"{files.shown(path, self.inputs.root)} {self.inputs.digest(path)}" for path in self.own]
        return files.fingerprint("command", [*self.words, "own", *own, "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Run it with the database's URL in DATABASE_URL, in the variables of ``lakebranch_env`` and in libpq's."""
        environ = application_environment(self.inputs.application, place.endpoint)
        environ["PATH"] = os.pathsep.join(filter(None, (environ.get("PATH"), str(place.binaries.directory))))
        try:
            done = programs.execute(list(self.words), cwd=self.inputs.root, environ=environ)
        except OSError as error:
            raise BaseError(f"{self.label}: {self.words[0]} cannot be run: {error.strerror}.") from error
        if done.status:
            raise self._failure(done, place)
        return "done"

    def _failure(self, done: programs.Outcome, place: Workplace) -> BaseError:
        lines = masked(done.output).strip().splitlines()
        said = "\n".join(lines[-LAST_LINES:]) or "it said nothing"
        how = f"status {done.status}" if done.status > 0 else f"signal {-done.status}"
        more = f" (the last {LAST_LINES} of {len(lines):,} lines)" if len(lines) > LAST_LINES else ""
        told = "\n".join([f"{self.label} failed with {how}{more}:", indented(said), hints.advice(done.output, place)])
        return BaseError(told.rstrip())


def parse(label: str, written: str, inputs: files.Inputs) -> CommandStep:
    """The step for ``command:written``; ConfigError when there is no such program, or when no files are declared.

    Those that it names are seldom all that decide what it does: ``manage.py`` never changes when migrations do.
    """
    try:
        words = shlex.split(written)
    except ValueError as error:
        raise ConfigError(f"{label}: it cannot be split into words: {error}.") from error
    _check_program(label, words[0], inputs.root)
    own = tuple(path for path in (Path(os.path.normpath(inputs.root / word)) for word in words) if path.is_file())
    if not inputs.globs:
        alone = f"; inputs={files.shown(own[0], inputs.root)} if it needs no other" if own else ""
        raise ConfigError(
            f"{label}: a change of what it does could go unnoticed. Declare the files that decide it: inputs=GLOB,…, "
            f"such as inputs=migrations/**{alone}."
        )
    return CommandStep(label, tuple(words), own, inputs)


def _check_program(label: str, program: str, root: Path) -> None:
    if "/" not in program:
        if shutil.which(program) is None:
            raise ConfigError(f"{label}: there is no program {program} on PATH.")
        return
    path = root / program
    if not path.is_file():
        files.existing(label, program, root)
        raise ConfigError(f"{label}: {path} is no program.")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{label}: {path} may not be executed: `chmod +x {program}`, or name its interpreter first.")
