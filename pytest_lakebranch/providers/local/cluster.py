"""Making an empty cluster: initdb, the tests' role and the tests' database."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pytest_lakebranch.errors import BaseError, MachineError
from pytest_lakebranch.postgres.binaries import Binaries
from pytest_lakebranch.providers.local.disk import FULL_IN_LOG, disk_full
from pytest_lakebranch.providers.local.launch import Launcher
from pytest_lakebranch.providers.local.rewind import requirements
from pytest_lakebranch.providers.local.server import SUPERUSER, Server

BUILTIN = "C.UTF-8"


def initialise(data: Path, *, binaries: Binaries, locale: str, launcher: Launcher, log: Path) -> None:
    """Run initdb in the empty directory ``data``; raises MachineError with its words and what to do."""
    command = [
        binaries.program("initdb"),
        "--pgdata",
        str(data),
        f"--username={SUPERUSER}",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-sync",
        "--no-instructions",
        "--wal-segsize=1",
        *(["--no-data-checksums"] if binaries.major >= 18 else []),
        *locale_flags(locale, binaries.major),
        "--lc-messages=C",
    ]
    if launcher.run(command, log=log) != 0:
        raise _failure(log.read_text(errors="replace"), data=data, locale=locale, binaries=binaries)


def locale_flags(locale: str, major: int) -> list[str]:
    """What initdb is told: C.UTF-8 is PostgreSQL's own from version 17 on, ``icu:X`` is ICU's, others are libc's."""
    if locale.startswith("icu:"):
        return ["--locale=C", "--locale-provider=icu", f"--icu-locale={locale.removeprefix('icu:')}"]
    if locale == BUILTIN and major >= 17:
        return ["--locale=C", "--locale-provider=builtin", f"--builtin-locale={locale}"]
    if locale == BUILTIN and not _has_libc_locale(locale):
        return ["--locale=C"]
    return [f"--locale={locale}"]


def _has_libc_locale(locale: str) -> bool:
    try:
        done = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return _plain(locale) in map(_plain, done.stdout.split())


def _plain(locale: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", locale.lower())


def _failure(said: str, *, data: Path, locale: str, binaries: Binaries) -> MachineError:
    if FULL_IN_LOG in said:
        return disk_full(data, "making an empty cluster")
    lines = [line for line in said.splitlines() if "error:" in line.lower() or "FATAL" in line] or said.splitlines()
    words = " ".join(lines[-3:])
    if re.search(r"locale|ICU|collation", words):
        return MachineError(
            f"lakebranch_locale is {locale!r}, which PostgreSQL {binaries.version} ({binaries.origin}) cannot use: "
            f"{words}. `locale -a` lists the machine's locales (Debian and Ubuntu: `apt-get install locales`, then "
            "`locale-gen`); the embedded PostgreSQL has no ICU: set lakebranch_postgres to a system one for that."
        )
    return MachineError(f"initdb of PostgreSQL {binaries.version} failed in {data}: {words}")


def create_role_and_database(server: Server, *, user: str, database: str) -> None:
    """Create the role that tests connect as and the database it owns; raises BaseError."""
    import psycopg
    from psycopg import sql

    owner, name = sql.Identifier(user), sql.Identifier(database)
    try:
        if user != SUPERUSER:
            server.control.execute(sql.SQL("create role {} login createdb").format(owner))
        server.control.execute(sql.SQL("create database {} owner {}").format(name, owner))
    except psycopg.Error as error:
        raise BaseError(f"role {user!r} and database {database!r} could not be created: {error}") from error


def add_what_rewinding_needs(server: Server, major: int) -> None:
    """Extensions for us, in the maintenance database, where no user's dump or schema shows them.

    A PostgreSQL that does not have them is as good, but that its branches cannot be rewound.
    """
    if major >= requirements.SINCE:
        query = "select name::text from pg_available_extensions where name = any(%s)"
        for (name,) in server.query(query, list(requirements.EXTENSIONS)):
            server.control.execute(f"create extension {name} schema public")


def set_superuser(server: Server, user: str, *, superuser: bool) -> None:
    """Make the tests' role a superuser while steps run, or an ordinary role again; raises BaseError."""
    import psycopg
    from psycopg import sql

    if user == SUPERUSER:
        return
    attribute = sql.SQL("superuser" if superuser else "nosuperuser")
    try:
        server.control.execute(sql.SQL("alter role {} {}").format(sql.Identifier(user), attribute))
    except psycopg.Error as error:
        raise BaseError(
            f"the role {user!r}, which tests connect as, cannot be altered: {error}. "
            "A step must not drop or rename the role that lakebranch_user names."
        ) from error
