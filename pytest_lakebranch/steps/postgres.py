"""``postgres:ENV_NAME``: a copy of a running server's database, whose URL is in that environment variable.

By copying its files where that is possible (see physical.py), else by pg_dump and pg_restore, both with several
connections. The original is opened in read-only transactions, and never written to.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pytest_lakebranch import amounts
from pytest_lakebranch.errors import BaseError, BranchError, ConfigError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.postgres.connect import connect, parameters_of
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.state import owner_is_gone, write_owner
from pytest_lakebranch.steps import dump, files, hints, needed, physical, programs, roles
from pytest_lakebranch.steps.base import Workplace
from pytest_lakebranch.steps.failures import Failure, base_error
from pytest_lakebranch.steps.needed import FOLLOWS_SINCE
from pytest_lakebranch.steps.physical import Original

READ_ONLY = "-c default_transaction_read_only=on"
TIMEOUT = "15"
"""Seconds for connecting, unless the URL says otherwise."""
NOT_WHERE = ("password", "sslpassword", "connect_timeout", "application_name")
"""Parameters that say nothing of which database it is, or as whom."""
WORDS = ("schemas", "tables", "refresh", "copy")
WAYS = ("dump", "physical")
THERE = "already exists"
CONSTRAINT, TABLE = "2606", "1259"
"""The oids of pg_constraint and pg_class, with which a dump's table of contents names objects."""
OTHERWISE = "With copy=dump the step copies by pg_dump instead."
_LOOK = """
SELECT 'version', current_setting('server_version_num'), '', '' UNION ALL
SELECT 'key', k.oid::text, k.confrelid::text, format('%s CONSTRAINT %I ON %I', nspname, conname, relname)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE k.contype = 'f' UNION ALL
SELECT DISTINCT 'role', rolname, '', '' FROM pg_shdepend JOIN pg_roles r ON r.oid = refobjid
JOIN pg_database d ON d.oid = dbid WHERE refclassid = 'pg_authid'::regclass AND datname = current_database()"""


class Foreign(NamedTuple):
    """A foreign key: its oid, that of the table it leads to, and how a dump names it in its comment."""

    oid: str
    target: str
    name: str


@dataclass(frozen=True, slots=True)
class Look:
    """What is asked of the original first: its version, its foreign keys with the tables they lead to, and the
    roles that own anything in the database, have a right there, or are named by a policy.
    """

    version: int
    foreign: tuple[Foreign, ...]
    roles: frozenset[str]

    @classmethod
    def of(cls, rows: list[list[str]]) -> Look:
        """What ``_LOOK`` gave."""
        (version,) = (int(name) for word, name, *_ in rows if word == "version")
        foreign = tuple(Foreign(*rest) for word, *rest in rows if word == "key")
        return cls(version, foreign, frozenset(name for word, name, *_ in rows if word == "role"))


@dataclass(frozen=True, slots=True)
class Selection:
    """What to copy: patterns of pg_dump's ``--schema`` or of its ``--table``, not of both; none for everything."""

    schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.schemas or self.tables)

    @property
    def word(self) -> str:
        """The word that it was written with."""
        return "schemas=" if self.schemas else "tables="

    def options(self, major: int = FOLLOWS_SINCE) -> list[str]:
        """As options of that pg_dump: from 16 on it takes partitions and children of tables with them."""
        table = "--table-and-children" if major >= FOLLOWS_SINCE else "--table"
        chosen = [f"--schema={name}" for name in self.schemas] + [f"{table}={name}" for name in self.tables]
        return [*chosen, "--strict-names"] if chosen else []


@dataclass(frozen=True, slots=True)
class PostgresStep:
    """``way``: how to copy, one of WAYS, or empty for physically where that is possible.

    ``refresh``: time (since 1970, UTC) is cut into spans of so many seconds, each of which has a copy of its own; 0
    for one copy for ever. The span is that in which the step was made: it stays the same while a base is built.
    """

    label: str
    variable: str
    selection: Selection
    refresh: int
    inputs: files.Inputs
    way: str = ""
    now: float = field(default_factory=time.time, compare=False)

    def fingerprint(self) -> str:
        """Of which database it is and what is taken from it; of what is in it only as often as ``refresh`` says."""
        source = self._source()
        where = [f"{name}={value}" for name, value in sorted(source.items()) if name not in NOT_WHERE]
        age = str(int(self.now // self.refresh)) if self.refresh else ""
        how = [f"copy={self.way}"] if self.way else []
        chosen = [*where, *self.selection.options(), *how, age]
        return files.fingerprint("postgres", [*chosen, "inputs", *self.inputs.digests()])

    def apply(self, place: Workplace) -> str:
        """Copy it; the size of what was copied, and how."""
        source = self._source()
        look = self._look_at(source, place)
        found = self._physical(source, place, look.version)
        if isinstance(found, Original):
            return self._copy_files(found, place)
        if self.way == "physical":
            raise BaseError(f"{self.label}: it cannot be copied physically: {found}.")
        return f"{self._copy_by_dump(source, look, place)}, by dump: {found}"

    def _physical(self, source: dict[str, str], place: Workplace, version: int) -> Original | str:
        """The original as it can be copied physically; or why it is not."""
        if self.selection:
            return "only a part of it is wanted"
        if self.way == "dump":
            return "copy=dump"
        return physical.look(source, place, version=version, user=self.inputs.application.user)

    def _copy_files(self, original: Original, place: Workplace) -> str:
        failure = physical.copy(original, place)
        if failure:
            raise base_error(self.label, failure, hints.advice(failure.message, place) or OTHERWISE)
        try:
            original.replacement.take_over(original.database)
        except (BaseError, BranchError) as error:
            raise BaseError(f"{self.label}: {error}\n{OTHERWISE}") from error
        return f"{amounts.size_text(original.size)}, physically"

    def _copy_by_dump(self, source: dict[str, str], look: Look, place: Workplace) -> str:
        with _directory(self.inputs.notes.directory) as directory:
            copied = directory / "dump"
            self._dump(source, copied, place)
            written = dump.definitions(copied, place)
            makes_public = dump.make_public(written)
            if makes_public:
                dump.make_way_for_public(place)
            _make_roles(roles.missing(written, place, look.roles), place)
            failure = self._restore_part(copied, source, look, place) if self.selection else dump.restore(copied, place)
            if failure:
                failure = replace(failure, where=self.variable)  # the dump's directory is gone when this is read
                raise base_error(self.label, failure, hints.advice(failure.message, place) or self._wider())
            if makes_public:
                dump.open_public(written, place)
            return amounts.size_text(sum(path.stat().st_size for path in copied.iterdir()))

    def _restore_part(self, copied: Path, source: dict[str, str], look: Look, place: Workplace) -> Failure | None:
        """Restore the dump after what it needs; what failed first, if that is why the dump cannot be restored."""
        found = needed.needed_by(copied, source, place, self.label)
        if found.left_out:
            raise BaseError(f"{self.label}: {self._left_out(found, place)}")
        schemas, rest = _listed(copied, place, look.foreign, found)
        failure = dump.restore(copied, place, dump.listed(schemas, copied.parent / "schemas")) if schemas else None
        if failure:
            return failure
        _make_schemas(found.schemas, place)
        earlier = needed.make(found, source, place, copied.parent)
        failure = dump.restore(copied, place, dump.listed(rest, copied.parent / "rest"))
        return failure and (failure if earlier is None or THERE in earlier.message else earlier)

    def _left_out(self, found: needed.Needed, place: Workplace) -> str:
        newer = ", or set lakebranch_postgres to version 16 or newer, which takes partitions with their tables"
        return (
            f"what is chosen needs {', '.join(found.left_out[:5])}{', …' if len(found.left_out) > 5 else ''}: choose "
            f"that too ({self.selection.word}){newer if place.binaries.major < FOLLOWS_SINCE else ''}."
        )

    def _wider(self) -> str:
        what = f"Choose what is missing too: {self.selection.word}, or leave that away for everything."
        return what if self.selection else ""

    def _source(self) -> dict[str, str]:
        """The connection's parameters, in libpq's words."""
        url = os.environ.get(self.variable, "")
        if not url:
            raise ConfigError(f"{self.label}: the environment variable {self.variable} is not set.")
        try:
            found = parameters_of(url)
        except ValueError as error:
            raise ConfigError(f"{self.label}: {self.variable} {error}.") from None
        found["options"] = f"{found.get('options', '')} {READ_ONLY}".strip()
        return {"connect_timeout": TIMEOUT, **found}

    def _look_at(self, source: dict[str, str], place: Workplace) -> Look:
        """A first look at the original, by psql, which finds it as pg_dump will.

        BaseError when it cannot be reached or is too new for our programs.
        """
        done = programs.ask(source, place, _LOOK, "--csv")
        if done.status:
            said = masked(done.errors).strip().removeprefix("psql: error: ")
            raise BaseError(f"{self.label}: the server that {self.variable} names cannot be read: {said}")
        look = Look.of(list(csv.reader(done.output.splitlines(keepends=True))))
        if look.version // 10000 > place.binaries.major:
            shown = f"{look.version // 10000}.{look.version % 10000}"
            raise BaseError(f"{self.label}: {hints.newer_server(shown, place)}")
        return look

    def _dump(self, source: dict[str, str], into: Path, place: Workplace) -> None:
        jobs = f"--jobs={dump.jobs()}"
        options = ["--format=directory", "--compress=0", jobs, f"--file={into}", "--no-password", "--no-sync"]
        chosen = self.selection.options(place.binaries.major)
        options.append("--no-subscriptions")  # to drop one, a test would connect to its publisher
        done = programs.run_against(source, place, "pg_dump", *options, *chosen, cwd=place.root)
        if done.status:
            said = masked(done.errors).removeprefix("pg_dump: error: ").strip()
            raise base_error(self.label, Failure(self.variable, said or f"pg_dump: status {done.status}"))


def _make_roles(names: Iterable[str], place: Workplace) -> None:
    from psycopg import sql

    with connect(place.endpoint, autocommit=True) as conn:
        for role in sorted(names):
            conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(role)))


def _make_schemas(names: Iterable[str], place: Workplace) -> None:
    from psycopg import sql

    with connect(place.endpoint, autocommit=True) as conn:
        for schema in names:
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))


def _listed(
    copied: Path, place: Workplace, foreign: Iterable[Foreign], found: needed.Needed
) -> tuple[list[str], list[str]]:
    """The dump's table of contents, schemas apart, without what is made already, and without what leads out of it:
    foreign keys to tables that are not in it, and the attaching of partitions to parents that are not.
    """
    lines = dump.contents(copied, place)
    there = {key for key, _ in needed.keyed(lines)}
    lost = [key for key in foreign if (TABLE, key.target) not in there]
    dropped = {(CONSTRAINT, key.oid) for key in lost} | found.objects
    made = {line for key, line in needed.keyed(lines) if key in dropped}
    away = [f" COMMENT {key.name} " for key in lost]
    away += [f" {kind} ATTACH {name} " for name in found.loose for kind in ("TABLE", "INDEX")]
    kept = [line for line in lines if line not in made and not any(part in f"{line} " for part in away)]
    schemas = [line for line in kept if " SCHEMA - " in line and not line.startswith(";")]
    return schemas, [line for line in kept if line not in schemas]


@contextmanager
def _directory(home: Path | None) -> Iterator[Path]:
    """A private directory beside our notes, where there should be room; those of processes that died are removed."""
    for left in home.glob("copy-*") if home else ():
        if owner_is_gone(left):
            shutil.rmtree(left, ignore_errors=True)
    if home is not None:
        home.mkdir(mode=0o700, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="copy-", dir=home))
    try:
        write_owner(directory, Identity.of(os.getpid()))
        yield directory
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)


def parse(label: str, written: str, inputs: files.Inputs) -> PostgresStep:
    """The step for ``postgres:ENV_NAME [schemas=A,B | tables=X,Y] [refresh=1d] [copy=dump]``; ConfigError when it is
    none.
    """
    variable, *words = written.split()
    if not re.fullmatch(r"[A-Za-z_]\w*", variable):
        raise ConfigError(
            f"{label.partition(':')[0]}: what follows must be the name of an environment variable that holds the URL, "
            "not a URL: that would put a password into a file."
        )
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in WORDS or not equals or not value.strip(","):
            raise ConfigError(
                f"{label}: {word!r} is not one of schemas=NAME,…, tables=NAME,…, refresh=1d and copy=dump."
            )
        given[name] = value
    selection = _selection(label, given)
    way = _way(label, given.get("copy"), selection)
    step = PostgresStep(label, variable, selection, _seconds(label, given.get("refresh")), inputs, way)
    step._source()
    return step


def _selection(label: str, given: Mapping[str, str]) -> Selection:
    schemas, tables = _names(given.get("schemas")), _names(given.get("tables"))
    if schemas and tables:
        instead = ",".join([*tables, *(f"{name}.*" for name in schemas)])
        raise ConfigError(
            f"{label}: schemas= and tables= cannot be given together: pg_dump leaves out whole schemas where it is "
            f"told of a table. tables={instead} takes all tables of a schema too."
        )
    return Selection(schemas, tables)


def _names(written: str | None) -> tuple[str, ...]:
    return tuple(name for name in (written or "").split(",") if name)


def _way(label: str, written: str | None, selection: Selection) -> str:
    if written not in (None, *WAYS):
        raise ConfigError(f"{label}: copy={written} is neither copy=dump nor copy=physical.")
    if written == "physical" and selection:
        raise ConfigError(f"{label}: copy=physical copies everything: {selection.word} cannot be given with it.")
    return written or ""


def _seconds(label: str, written: str | None) -> int:
    if written is None:
        return 0
    try:
        return amounts.span(written) or 1
    except ValueError as error:
        raise ConfigError(f"{label}: refresh: {error}.") from None
