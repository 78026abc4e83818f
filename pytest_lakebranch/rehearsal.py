"""Migrations tried out: each on a branch of its own, in the state that it will find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_lakebranch.branch import Branch
from pytest_lakebranch.errors import ConfigError
from pytest_lakebranch.migrations.observation import Lock, Observation, Rewrite
from pytest_lakebranch.migrations.watch import Watch, watching
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.run import Run, told
from pytest_lakebranch.schema.diff import SchemaDiff, compare
from pytest_lakebranch.steps.base import Divided, Migration, Unit, Workplace, is_divided, is_migration
from pytest_lakebranch.steps.locks import watched
from pytest_lakebranch.steps.prefix import Prefix

INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class Planned:
    """One migration and its place: unit number ``unit`` of step number ``step``."""

    step: int
    unit: int
    migration: Migration

    @property
    def label(self) -> str:
        """What a person calls it."""
        name = self.migration.name
        return f"{self.migration.revision} {name}".strip() if name != self.migration.revision else name


class Stage:
    """The migrations of a project, and branches in the states before them.

    One branch walks: it is brought from migration to migration, and forked where one is tried. Whoever tries them in
    their order has each applied to it once.
    """

    def __init__(self, run: Run) -> None:
        if run.settings.provider != "local":
            raise ConfigError(
                "migrations are measured as a superuser, which a cloud gives nobody: check them with "
                "--lakebranch-provider=local."
            )
        self._run = run
        self._root = Path(run.settings.root)
        self._steps = run.steps(run.entries)
        self._tools = ExitStack()
        self._units: dict[int, Sequence[Unit]] = {}
        self._base: list[Any] = []
        self._walker: Branch | None = None
        self._at = (-1, -1)
        self.all = [one for number, step in enumerate(self._steps) for one in self._planned(number, step)]

    def _planned(self, number: int, step: object) -> Iterator[Planned]:
        if is_divided(step):  # type: ignore[arg-type]  # any step
            self._units[number] = step.units()
            for place, unit in enumerate(self._units[number]):
                if is_migration(unit):
                    yield Planned(number, place, unit)

    @property
    def own(self) -> list[Planned]:
        """Those of the project itself: written below its root directory, not in an installed package."""
        return [one for one in self.all if self._is_own(one.migration.source)]

    def _is_own(self, source: Path) -> bool:
        found = source if source.is_absolute() else self._root / source
        return found.is_relative_to(self._root) and not set(INSTALLED) & set(found.parts)

    def named(self, name: str) -> Planned:
        """The migration with this revision, name or file name; ConfigError naming the nearest when there is none."""
        for one in self.all:
            source = one.migration.source
            if name in (one.migration.revision, one.migration.name, source.name, source.stem):
                return one
        known = [word for one in self.all for word in (one.migration.revision, one.migration.source.stem)]
        near = get_close_matches(name, known, n=3) or known[-3:]
        raise ConfigError(f"there is no migration {name!r}. There are, among others, {', '.join(near) or 'none'}.")

    def work(self, branch: Branch, unit: Unit, action: Callable[[Workplace], str]) -> None:
        """Have ``unit`` act on a branch, as while a base is built: the role that tests connect as is a superuser, the
        application's URL leads there, and waiting for a lock ends after ``lakebranch_lock_timeout``.
        """
        endpoint = replace(branch.endpoint, user=self._run.settings.user)
        place = Workplace(endpoint, find(self._run.settings.postgres), self._root)
        with (
            self._run.application_at(endpoint),
            watched(place, unit.label, seconds=self._run.settings.lock_seconds),
        ):
            action(place)

    def before(self, wanted: Planned) -> Branch:
        """The walking branch, in the state that ``wanted`` finds. Raises LakebranchError when it cannot be reached."""
        step, unit = self._at
        if self._walker is None or step != wanted.step or unit > wanted.unit:
            self._restart(wanted)
        assert self._walker is not None  # noqa: S101  (just made)
        units = self._units[wanted.step]
        while self._at[1] < wanted.unit:
            try:
                done = units[self._at[1]]
                self.work(self._walker, done, done.apply)
            except BaseException:
                self._leave()
                raise
            self._at = (wanted.step, self._at[1] + 1)
        return self._walker

    def _restart(self, wanted: Planned) -> None:
        self._leave()
        step = self._steps[wanted.step]
        assert is_divided(step)  # noqa: S101  (it has migrations)
        self._tools.enter_context(step.open())
        self._base = [*self._run.entries[: wanted.step], *_prefix(step, wanted.unit)]
        self._walker = self._run.open("fixture", asker="migrations", base=self._base, disposable=True)
        self._at = (wanted.step, wanted.unit)
        if self._run.settings.user != self._walker.endpoint.user:
            with self._walker.connect(autocommit=True) as connection:
                connection.execute(f"ALTER ROLE {_quoted(self._run.settings.user)} SUPERUSER")

    @contextmanager
    def fork(self, wanted: Planned) -> Iterator[Branch]:
        """A branch in the state that ``wanted`` finds, until the block ends."""
        asker = str(wanted.migration.source.name)
        parent = self.before(wanted)
        branch = self._run.open("fork", asker=asker, parent=parent, disposable=True, base=self._base)
        try:
            yield branch
        finally:
            self._run.release(branch)

    def _leave(self) -> None:
        walker, self._walker, self._at = self._walker, None, (-1, -1)
        if walker is not None:
            self._run.release(walker)

    def close(self) -> None:
        """Give back the walking branch and end the tools."""
        try:
            self._leave()
        finally:
            self._tools.close()


def _prefix(step: Divided, count: int) -> list[Any]:
    return [Prefix(step, count)] if count else []


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Rehearsal:
    """One migration on a branch of its own, which is in the state that the migration finds until it is applied.

    What is measured is that of the last :meth:`apply` or :meth:`rollback`.
    """

    def __init__(self, stage: Stage, planned: Planned, fork: Callable[[], Branch]) -> None:
        self._stage = stage
        self._planned = planned
        self._fork = fork
        self.observation = Observation()
        self.diff: SchemaDiff | None = None

    @cached_property
    def branch(self) -> Branch:
        """Its branch, which is made when it is first asked for."""
        return self._fork()

    @property
    def revision(self) -> str:
        """What the tool calls it."""
        return self._planned.migration.revision

    @property
    def name(self) -> str:
        """What a person calls it; may be empty."""
        return self._planned.migration.name

    @property
    def reversible(self) -> bool:
        """Whether it can be rolled back."""
        return self._planned.migration.reversible

    def apply(self) -> Observation:
        """Apply it, and measure. Raises BaseError with the statement that failed."""
        return self._act(self._planned.migration.apply)

    def rollback(self) -> Observation:
        """Undo it, and measure. Raises BaseError, also when it is not reversible."""
        return self._act(self._planned.migration.rollback)

    def _act(self, action: Callable[[Workplace], str]) -> Observation:
        before = self.branch.schema()
        watch = Watch()
        try:
            with watching(self._admin, watch):
                self._stage.work(self.branch, self._planned.migration, action)
        finally:
            self.observation = watch.observation
        self.diff = compare(before, self.branch.schema(), old="before", new="after")
        return self.observation

    @property
    def _admin(self) -> Endpoint:
        return self.branch.endpoint

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """An autocommitting connection to the branch, as a superuser."""
        with closing(connect(self._admin, autocommit=True)) as connection:
            yield connection

    @property
    def locks(self) -> tuple[Lock, ...]:
        """The strongest lock on each table that was there before, the strongest first."""
        return self.observation.locks

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """Tables all of whose rows were written again."""
        return self.observation.rewrites

    @property
    def wal_bytes(self) -> int:
        """Bytes that the server wrote to its log."""
        return self.observation.wal_bytes

    @property
    def duration(self) -> float:
        """Seconds that it took."""
        return self.observation.duration

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that changed the schema, as they were sent."""
        return self.observation.statements

    def __repr__(self) -> str:
        return f"<Rehearsal of {self._planned.label} on {self.branch!r}>"


class Rehearsals(Rehearsal):
    """The newest migration; called with a revision, a name or the name of a file, another one."""

    def __init__(self, stage: Stage, ends: ExitStack) -> None:
        self._ends = ends
        if not stage.all:
            raise ConfigError("there are no migrations: no step of lakebranch_base consists of any.")
        super().__init__(stage, stage.all[-1], lambda: ends.enter_context(stage.fork(stage.all[-1])))

    def __call__(self, name: str) -> Rehearsal:
        """The migration ``name``, on a branch of its own."""
        __tracebackhide__ = True
        with told():
            planned = self._stage.named(name)
        return Rehearsal(self._stage, planned, lambda: self._ends.enter_context(self._stage.fork(planned)))


@contextmanager
def rehearsals(run: Run) -> Iterator[Rehearsals]:
    """What a test tries migrations out with; their branches end with the block."""
    with ExitStack() as ends:
        with told():
            stage = Stage(run)
            ends.callback(stage.close)
            made = Rehearsals(stage, ends)
        yield made
