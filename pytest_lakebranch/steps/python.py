"""``python:pkg.mod:callable``, and callables from a hook: Python that gets a connection and fills the database."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps import files, hints, modules, sources
from pytest_lakebranch.steps.base import Seed, Workplace
from pytest_lakebranch.steps.blame import failure_of
from pytest_lakebranch.steps.failures import base_error

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True, slots=True)
class PythonStep:
    """A callable named by module and attribute; imported when the step runs, not before."""

    label: str
    module: str
    attribute: str
    inputs: files.Inputs

    def fingerprint(self) -> str:
        """Of the module's source file, the callable's name and the inputs; nothing is imported."""
        file = modules.source_of(self.module, root=self.inputs.root, label=self.label)
        parts = [f"{self.module}:{self.attribute}", self.inputs.digest(file)]
        return files.fingerprint("python", [*parts, "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Call it in a transaction of its own."""
        return _guarded(self.label, place, self._load)

    def _load(self) -> Seed:
        found: Any = modules.load(self.module, self.inputs.root)
        file = modules.source_of(self.module, root=self.inputs.root, label=self.label)
        if not modules.is_from(found, file):
            raise BaseError(
                f"{self.label}: {self.module} is {file}, but another module of that name has been imported before: "
                f"{found.__file__}. Give one of them another name, or put it into a package."
            )
        for name in self.attribute.split("."):
            if not hasattr(found, name):
                near = modules.did_you_mean(name, [word for word in dir(found) if not word.startswith("_")])
                raise BaseError(f"{self.label}: {self.module} has no {self.attribute}.{near}")
            found = getattr(found, name)
        if not callable(found):
            raise BaseError(f"{self.label}: {self.attribute} is a {type(found).__name__}, not a callable.")
        seed: Seed = found
        return seed


@dataclass(frozen=True, slots=True)
class CallableStep:
    """A callable that a hook in ``conftest.py`` supplied."""

    label: str
    seed: Seed

    def fingerprint(self) -> str:
        """Of the source file it was written in, its name, and the plain values it carries."""
        return files.fingerprint("callable", [sources.identity(self.seed, self.label)])

    def apply(self, place: Workplace) -> str:
        """Call it in a transaction of its own."""
        return _guarded(self.label, place, lambda: self.seed)


def _guarded(label: str, place: Workplace, load: Callable[[], Seed]) -> str:
    """Load and call a seed; whatever it raises but an interrupt becomes a BaseError, also ``sys.exit`` and a skip."""
    try:
        seed = load()
        with closing(connect(place.endpoint)) as conn:
            _finish(label, seed(conn), conn)
    except (BaseError, KeyboardInterrupt):
        raise
    except BaseException as error:  # not only Exception: a pytest.skip() here would turn the suite green
        failure = failure_of(error, place.root)
        raise base_error(label, failure, hints.advice(failure.message, place)) from error
    return "done"


def _finish(label: str, result: object, conn: psycopg.Connection[Any]) -> None:
    """Commit, unless the seed closed its connection; refuse what would silently lose its work."""
    from psycopg.pq import TransactionStatus

    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
        raise BaseError(
            f"{label}: it is an async function or a generator: calling it runs nothing. Make it a plain one."
        )
    if conn.closed:
        return
    if conn.info.transaction_status == TransactionStatus.INERROR:
        raise BaseError(
            f"{label}: it returned after a statement had failed, so its transaction can only be rolled back. "
            "Let the error out, or catch it around `with conn.transaction():`."
        )
    conn.commit()


def parse(label: str, written: str, inputs: files.Inputs) -> PythonStep:
    """The step for ``python:written``; ConfigError when the module cannot be found or surely lacks the callable."""
    module, colon, attribute = written.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
        raise ConfigError(f"{label}: {written!r} is not of the form PKG.MOD:CALLABLE, such as tests.seed:load.")
    modules.check_names(modules.source_of(module, root=inputs.root, label=label), attribute, label)
    return PythonStep(label, module, attribute, inputs)


def from_callable(seed: Seed) -> CallableStep:
    """The step for a callable, labelled by its module and name."""
    named = getattr(seed, "func", seed)
    name = getattr(named, "__qualname__", type(named).__qualname__)
    return CallableStep(f"python:{getattr(named, '__module__', '?')}:{name}", seed)
