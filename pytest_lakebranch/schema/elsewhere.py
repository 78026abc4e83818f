"""Schemas that are not those of branches: of a file, of a running server, of another git revision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType

from pytest_lakebranch.errors import BaseError, ConfigError, MachineError
from pytest_lakebranch.masking import masked
from pytest_lakebranch.postgres.connect import connect_read_only, parameters_of
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.schema.catalog import read
from pytest_lakebranch.schema.model import Schema

VARIABLE, REVISION = "env:", "git:"
INDEX = ".lakebranch-index"
OLDEST = 150000
"""What ``server_version`` says of PostgreSQL 15."""
_SECRET = ("password", "sslpassword")


def named(name: str, *, root: Path, home: Path) -> Schema | None:
    """The schema that ``env:NAME`` or ``git:REVISION`` means; None when ``name`` is neither.

    ``root`` is the project's directory, ``home`` the state directory. Raises LakebranchError.
    """
    if name.startswith(VARIABLE):
        return of_variable(name.removeprefix(VARIABLE), os.environ)
    if name.startswith(REVISION):
        return of_revision(name.removeprefix(REVISION), root=root, home=home)
    return None


def of_file(path: Path) -> Schema:
    """The schema in a file that ``lakebranch schema TARGET --json`` wrote. Raises ConfigError."""
    try:
        return Schema.from_json(json.loads(path.read_text())["things"])
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no schema. `lakebranch schema TARGET --json > {path.name}` writes one."
        ) from error


def of_variable(name: str, environ: Mapping[str, str]) -> Schema:
    """The schema of the database whose URL is in an environment variable; nothing is written there.

    Raises ConfigError and MachineError; neither tells the URL.
    """
    import psycopg

    if not environ.get(name):
        raise ConfigError(f"env:{name}: the environment variable {name} is not set: it should hold a database's URL.")
    try:
        parameters = parameters_of(environ[name])
    except ValueError as error:
        raise ConfigError(f"env:{name}: what the variable {name} holds {error}.") from None
    try:
        with closing(connect_read_only(parameters)) as connection:
            if connection.info.server_version < OLDEST:
                raise MachineError(f"env:{name}: its server is older than PostgreSQL 15, whose catalog is not known.")
            return read(connection)
    except psycopg.Error as error:
        raise MachineError(f"env:{name}: it cannot be read: {_masked(str(error).strip(), parameters)}") from None


def _masked(text: str, parameters: Mapping[str, str]) -> str:
    for word in _SECRET:
        text = text.replace(parameters[word], "***") if parameters.get(word) else text
    return masked(text)


def of_revision(revision: str, *, root: Path, home: Path) -> Schema:
    """The schema of the project's base as it was at a git revision: its own settings, steps and files.

    The revision's files are exported to a temporary directory, and the base is built there by a process of its own;
    steps that have not changed are found in the cache. Raises ConfigError and BaseError.
    """
    with tempfile.TemporaryDirectory(prefix="lbgit") as directory:
        place = _exported(revision, root, Path(directory))
        words = ["pytest_lakebranch.cli", "schema", "base", "--json", "--home", str(home)]
        command = [sys.executable, "-P", "-m", *words]  # else files of the revision hide modules with their names
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, check=False, env=environment_without_pg()
        )
        if done.returncode:
            said = done.stderr.strip().removeprefix("lakebranch: ")
            raise BaseError(f"git:{revision}: the base of that revision cannot be built: {said}")
        return Schema.from_json(json.loads(done.stdout)["things"])


def files_at(revision: str, *, root: Path) -> set[Path]:
    """The files that are in git at a revision, as they lie in the working tree of ``root``. Raises ConfigError."""
    top = Path(_git(revision, root, "rev-parse", "--show-toplevel").decode().strip())
    listed = _git(revision, top, "ls-tree", "-r", "-z", "--name-only", "--full-tree", revision)
    return {top / name for name in listed.decode().split("\0") if name}


def _exported(revision: str, root: Path, directory: Path) -> Path:
    """The files of a revision in ``directory``; where in it the project lies."""
    top = _git(revision, root, "rev-parse", "--show-toplevel").decode().strip()
    prefix = _git(revision, root, "rev-parse", "--show-prefix").decode().strip()
    index = {"GIT_INDEX_FILE": str(directory / INDEX)}  # not an archive: that leaves out what is export-ignore
    _git(revision, Path(top), "read-tree", "--end-of-options", revision, environ=index)
    _git(revision, Path(top), "checkout-index", "--all", f"--prefix={directory}/", environ=index)
    (directory / INDEX).unlink()
    place = directory / prefix
    if not place.is_dir():
        raise ConfigError(f"git:{revision}: that revision has no folder {prefix}.")
    return place


def _git(revision: str, root: Path, *words: str, environ: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """What git says; of its variables only those in ``environ`` count."""
    environ = {**{name: value for name, value in os.environ.items() if not name.startswith("GIT_")}, **environ}
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False, env=environ)
    except OSError as error:
        raise MachineError(f"git:{revision}: git cannot be run: {error.strerror}.") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigError(
            f"git:{revision}: git says: {said}. (In CI, a checkout has one revision only unless told otherwise: "
            "fetch-depth: 0.)"
        )
    return done.stdout
