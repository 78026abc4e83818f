"""``python:pkg.mod:callable``, and callables from a hook: Python that gets a connection and fills the database."""

from __future__ import annotations

import inspect
import sysconfig
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.steps import files, hints, modules, sources
from pytest_lakebranch.steps.base import Seed, Workplace
from pytest_lakebranch.steps.failures import Failure, base_error

if TYPE_CHECKING:
    import psycopg

_NOT_THE_USERS = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))


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
        failure = Failure(_where(error, place.root), _message(error), _statement(error))
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


def _message(error: BaseException) -> str:
    name = type(error).__qualname__
    module = type(error).__module__
    return f"{name if module == 'builtins' else f'{module}.{name}'}: {error}"


def _where(error: BaseException, root: Path) -> str:
    """``file:line`` of the deepest frame in the user's own code."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{files.shown(Path(error.filename), root)}:{error.lineno}"
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)]
    readable = [(file, line) for file, line in frames if file.is_file() and not str(file).startswith(_NOT_THE_USERS)]
    own = [(file, line) for file, line in readable if "site-packages" not in file.parts]
    installed = [(file, line) for file, line in readable if "psycopg" not in file.parts]
    if not own and not installed:
        return "its call"
    file, number = (own or installed)[-1]
    return f"{files.shown(file, root)}:{number}"


def _statement(error: BaseException) -> str:
    """What psycopg was asked to execute, without its parameters: its errors do not carry it, its frames do."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        if frame.f_globals.get("__name__", "").startswith("psycopg.") and "query" in frame.f_locals:
            return _as_text(frame)
    return ""


def _as_text(frame: FrameType) -> str:
    query = frame.f_locals["query"]
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return query.as_string() if hasattr(query, "as_string") else str(query)


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
