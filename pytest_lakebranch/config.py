"""The settings: one table that drives pytest's options and ini, the environment, the header and the documents.

Each setting ``x`` is spelled ``--lakebranch-x``, ``LAKEBRANCH_X`` and ``lakebranch_x``; the command line wins over the
environment, the environment over ini, ini over the default.  Set but empty is an error.

This module is imported in every run, so its records are named tuples: defining a dataclass costs ten times as much. And
no pattern is compiled before there is something to match.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from pytest_lakebranch import amounts
from pytest_lakebranch.errors import ConfigError

Kind = Literal["text", "list", "flag", "number"]
Rung = Literal["snapshot", "overlay", "reflink", "copy"]
RUNGS: tuple[Rung, ...] = get_args(Rung)
PROVIDERS = ("local", "lakebase")
LISTEN = ("unix", "tcp")
REPORT_SUFFIXES = (".json", ".html")
KEEP = ("failed", "always", "never")
DIFF_SUFFIXES = (".md", ".txt", ".json")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
MAINTENANCE_DATABASES = ("postgres", "template0", "template1")


class Row(NamedTuple):
    """One setting: its name without prefix, its kind, what it is for, and what it is when nobody sets it."""

    name: str
    kind: Kind
    help: str
    default: Any
    metavar: str | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The command line spelling."""
        return f"--lakebranch-{self.name.replace('_', '-')}"

    @property
    def ini(self) -> str:
        """The ini spelling."""
        return f"lakebranch_{self.name}"

    @property
    def env(self) -> str:
        """The environment spelling."""
        return f"LAKEBRANCH_{self.name.upper()}"


TABLE: tuple[Row, ...] = (
    Row("provider", "text", "where branches live", "local", choices=PROVIDERS),
    Row(
        "base",
        "list",
        "the steps that make the base, in order: sql:PATH, dump:PATH, alembic:INI[@REVISION], django:SETTINGS_MODULE, "
        "command:PROGRAM ARGUMENTS inputs=GLOB,…, postgres:ENV_NAME, python:PKG.MOD:CALLABLE; "
        "any may end in ' inputs=GLOB,…' to name files whose change rebuilds it",
        (),
        "STEP",
    ),
    Row("database", "text", "the database that tests connect to", "app", "NAME"),
    Row("user", "text", "the role that tests connect as; not a superuser when given", "postgres", "ROLE"),
    Row("settings", "list", "PostgreSQL settings of every branch", (), "NAME=VALUE"),
    Row("locale", "text", "locale of the cluster; icu:LOCALE for ICU", "C.UTF-8", "LOCALE"),
    Row(
        "env",
        "list",
        "environment variables that get the application's URL before it is imported; NAME, or NAME=TEMPLATE "
        "with {url}, {host}, {port}, {user}, {password} and {database}",
        (),
        "NAME",
    ),
    Row("listen", "text", "how the application's URL is reached: a unix socket, or a port", "unix", choices=LISTEN),
    Row("autouse", "flag", "take a lease for every test", False),
    Row("postgres", "text", "auto, embedded, or the directory of PostgreSQL's programs", "auto", "WHICH"),
    Row("storage", "text", "storage rung; auto takes the first that works", "auto", choices=("auto", *RUNGS)),
    Row("rebuild", "flag", "run all steps again, whatever the cache holds", False),
    Row("lock_timeout", "text", "how long a step may wait for a lock, such as 30s or 2m", "30s", "SPAN"),
    Row("report", "list", "files to write a report of the run to, by suffix: .json or .html", (), "FILE"),
    Row("keep", "text", "whose branches to keep after the run, for a human to look at", "never", choices=KEEP),
    Row("keep_for", "text", "how long a kept branch stays, such as 12h or 7d", "1d", "SPAN"),
    Row("schema_diff", "list", "files to write the schema diff to, by suffix: .md, .txt or .json", (), "FILE"),
    Row(
        "schema_diff_from",
        "text",
        "what the base is compared with: source (the base before its migrations), git:REF, env:NAME or a file",
        "source",
        "WHAT",
    ),
    Row(
        "cache_size",
        "text",
        "how large the cache of bases may grow, such as 500M; what was not used longest goes",
        "10G",
        "SIZE",
    ),
    Row("check_migrations", "flag", "check each migration: applies, idempotent, reversible, lint", False),
    Row(
        "check_migrations_since",
        "text",
        "check only those after this migration, or git:REF: not in git there",
        "",
        "WHICH",
    ),
    Row("check_migrations_allow", "list", "what lint lets pass: RULE, or REVISION:RULE", (), "RULE"),
    Row("source", "text", "in the cloud: what all branches are forked from, projects/NAME[/branches/NAME]", "", "PATH"),
    Row("owner", "text", "in the cloud: on whose behalf branches are made, such as pr-17; in their names", "", "NAME"),
    Row("branches", "number", "in the cloud: how many branches, each with a compute, a run may have", 20, "N"),
    Row("requests", "number", "in the cloud: how many requests a minute; 0 is without limit", 0, "N"),
    Row("deadline", "text", "in the cloud: how long to wait for a branch before that is an error", "5m", "SPAN"),
    Row("ttl", "text", "in the cloud: after what time a branch expires when nobody renews it", "1h", "SPAN"),
    Row("keep_template", "flag", "in the cloud: keep what the steps made for later runs, for at most a day", False),
    Row("endpoint_port", "number", "in the cloud: the port of endpoints", 5432, "PORT"),
    Row("endpoint_ca", "text", "in the cloud: certificates to trust at endpoints, instead of the system's", "", "FILE"),
    Row("home", "text", "state directory", "the user cache directory", "DIR"),
)
BY_NAME = {row.name: row for row in TABLE}

SERVER_SETTINGS_OF_OURS = {
    "data_directory": "each branch has its own",
    "unix_socket_directories": "each branch has its own",
    "listen_addresses": "branches listen on unix sockets only",
    "port": "the application's URL must stay constant",
    "hba_file": "the socket directory is closed to other users",
    "ident_file": "the socket directory is closed to other users",
    "config_file": "settings are given on the command line",
    "external_pid_file": "the host watches the server itself",
    "restart_after_crash": "a crashed branch is replaced, not recovered",
    "archive_mode": "branches are thrown away",
    "logging_collector": "the server's log goes to the branch's directory",
}


VARIABLES_OF_OTHERS = r"PATH|HOME|TMPDIR|(LD_|DYLD_|PYTHON|PYTEST_|LAKEBRANCH_).*"
"""Variables that decide how programs run, and where: a URL in them would break the run."""


class Settings(NamedTuple):
    """All settings of a run, resolved. ``sources`` tells for each that is not a default where it came from."""

    provider: str
    base: tuple[str, ...]
    database: str
    user: str
    settings: tuple[str, ...]
    locale: str
    env: tuple[str, ...]
    listen: str
    autouse: bool
    postgres: str
    storage: str
    rebuild: bool
    lock_timeout: str
    report: tuple[str, ...]
    keep: str
    keep_for: str
    schema_diff: tuple[str, ...]
    schema_diff_from: str
    cache_size: str
    source: str
    owner: str
    branches: int
    requests: int
    deadline: str
    ttl: str
    keep_template: bool
    endpoint_port: int
    endpoint_ca: str
    check_migrations: bool
    check_migrations_since: str
    check_migrations_allow: tuple[str, ...]
    home: str  # empty: the platform's user cache directory
    root: str
    sources: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; :meth:`from_json` reads it back."""
        return self._asdict()

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Settings:
        """From :meth:`to_json`."""
        lists = {row.name: tuple(stored[row.name]) for row in TABLE if row.kind == "list"}
        return cls(**{**stored, **lists})

    @property
    def keep_seconds(self) -> int:
        """``keep_for`` in seconds."""
        return amounts.span(self.keep_for)

    @property
    def cache_bytes(self) -> int:
        """``cache_size`` in bytes."""
        return amounts.size(self.cache_size)

    @property
    def server_settings(self) -> dict[str, str]:
        """``settings`` as a mapping of PostgreSQL's names to values."""
        return {name.strip(): value for name, _, value in (text.partition("=") for text in self.settings)}

    @property
    def lock_seconds(self) -> int:
        """``lock_timeout`` as a number."""
        return amounts.span(self.lock_timeout)

    def variables(self, values: Mapping[str, str]) -> dict[str, str]:
        """The environment variables of ``env``, filled with ``values``."""
        pairs = (entry.partition("=") for entry in self.env)
        return {name.strip(): (template or "{url}").format(**values) for name, _, template in pairs}


def resolve(*, options: Mapping[str, Any], environ: Mapping[str, str], ini: Mapping[str, Any], root: Path) -> Settings:
    """Settings from the three places, each a mapping that lacks what was not given; raises ConfigError."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row in TABLE:
        source, raw = _first_given(row, options=options, environ=environ, ini=ini)
        values[row.name] = row.default if source is None else _parse(row, raw, source)
        if source is not None:
            sources[row.name] = source
    values["home"] = str(root / _expanded("home", values["home"])) if "home" in sources else ""
    if values["postgres"] not in ("auto", "embedded"):
        values["postgres"] = str(root / _expanded("postgres", values["postgres"]))
    settings = Settings(**values, root=str(root), sources=sources)
    _check(settings)
    return settings


def refuse_unknown(environ: Iterable[str], ini: Iterable[str]) -> None:
    """Raise ConfigError for a name with our prefix that is no setting: a misspelt setting must not be a dead one."""
    places = (
        ({row.env for row in TABLE}, [name for name in environ if name.startswith("LAKEBRANCH_")]),
        ({row.ini for row in TABLE}, ini),
    )
    for known, names in places:
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no setting {name}.{_did_you_mean(name, known)}")


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {close[0]}?" if close else f" Known are {', '.join(sorted(known))}."


def _first_given(
    row: Row, *, options: Mapping[str, Any], environ: Mapping[str, str], ini: Mapping[str, Any]
) -> tuple[str | None, Any]:
    if row.name in options:
        return row.flag, options[row.name]
    if row.env in environ:
        return row.env, environ[row.env]
    if row.name in ini:
        return f"{row.ini} in ini", ini[row.name]
    return None, None


def _parse(row: Row, raw: Any, source: str) -> Any:
    if row.kind == "flag":
        return _parse_flag(raw, source)
    if row.kind == "list":
        return _parse_list(row, raw, source)
    if row.kind == "number":
        return _parse_number(row, raw, source)
    text = str(raw).strip()
    if not text:
        raise ConfigError(f"{source} is set but empty. Give it a value or remove it ({row.help}).")
    if row.choices and text not in row.choices:
        raise ConfigError(f"{source}: {text!r} is not one of {', '.join(row.choices)}.")
    return text


def _parse_number(row: Row, raw: Any, source: str) -> int:
    text = str(raw).strip()
    if not text:
        raise ConfigError(f"{source} is set but empty. Give it a number or remove it ({row.help}).")
    least = min(1, row.default)
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ConfigError(f"{source}: {text!r} is no whole number from {least} on.")
    return int(text)


def _parse_flag(raw: Any, source: str) -> bool:
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower()
    if word not in TRUE + FALSE:
        raise ConfigError(f"{source}: {raw!r} is neither true nor false.")
    return word in TRUE


def _parse_list(row: Row, raw: Any, source: str) -> tuple[str, ...]:
    try:
        items = shlex.split(raw) if isinstance(raw, str) else [str(item).strip() for item in raw]
    except ValueError as error:
        raise ConfigError(f"{source}: {raw!r} cannot be split into words: {error}.") from None
    if not any(items):
        raise ConfigError(f"{source} is set but empty. Give it a value or remove it ({row.help}).")
    if not all(items):
        raise ConfigError(f"{source} is set but has an empty entry. Give it a value or remove it.")
    return tuple(items)


def _check(settings: Settings) -> None:
    for row in (BY_NAME["database"], BY_NAME["user"]):
        _check_identifier(row, getattr(settings, row.name))
    if settings.database in MAINTENANCE_DATABASES:
        raise ConfigError(
            f"lakebranch_database: {settings.database!r} is a maintenance database of the cluster. "
            "Choose another name, such as 'app'."
        )
    for entry in settings.settings:
        _check_server_setting(entry)
    _check_env(settings)
    _check_suffixes("report", settings.report, REPORT_SUFFIXES)
    _check_suffixes("schema_diff", settings.schema_diff, DIFF_SUFFIXES)
    _check_amount("keep_for", settings, amounts.span)
    _check_amount("cache_size", settings, amounts.size)
    for name in ("lock_timeout", "deadline", "ttl"):
        _check_amount(name, settings, amounts.span, least=1)


def _check_identifier(row: Row, name: str) -> None:
    if "\0" in name or len(name.encode()) > 63:
        raise ConfigError(f"{row.ini}: {name!r} is longer than the 63 bytes PostgreSQL allows for a name.")


def _check_server_setting(entry: str) -> None:
    name, equals, _ = entry.partition("=")
    if not equals or not re.fullmatch(r"\s*[A-Za-z_][\w.]*\s*", name):
        raise ConfigError(f"lakebranch_settings: {entry!r} is not of the form name=value.")
    reason = SERVER_SETTINGS_OF_OURS.get(name.strip().lower())
    if reason:
        raise ConfigError(f"lakebranch_settings: {name.strip()} cannot be set: {reason}.")


def _check_env(settings: Settings) -> None:
    for entry in settings.env:
        name = entry.partition("=")[0].strip()
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ConfigError(f"lakebranch_env: {entry!r} is neither NAME nor NAME=TEMPLATE.")
        if re.fullmatch(VARIABLES_OF_OTHERS, name):
            raise ConfigError(f"lakebranch_env: {name} cannot be set: the system, Python, pytest or we go by it.")
    try:
        settings.variables(dict.fromkeys(("url", "host", "port", "user", "password", "database"), ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"lakebranch_env: a template has an unknown placeholder ({error}). "
            "Known are {url}, {host}, {port}, {user}, {password} and {database}."
        ) from None


def _expanded(name: str, path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"lakebranch_{name}: {path!r}: there is no such user, or no home directory.") from None


def _check_suffixes(name: str, files: Iterable[str], suffixes: Sequence[str]) -> None:
    for file in files:
        if _expanded(name, file).suffix.lower() not in suffixes:
            raise ConfigError(f"lakebranch_{name}: {file!r} ends in none of the known suffixes {', '.join(suffixes)}.")


def _check_amount(name: str, settings: Settings, parse: Callable[[str], int], *, least: int = 0) -> None:
    if name not in settings.sources:
        return
    text = getattr(settings, name)
    try:
        found = parse(text)
    except ValueError as error:
        raise ConfigError(f"{BY_NAME[name].ini}: {error}.") from None
    if found < least:
        raise ConfigError(f"{BY_NAME[name].ini}: {text!r} is no time at all ({BY_NAME[name].help}).")


def not_default(settings: Settings) -> Sequence[str]:
    """``name=value (from source)`` for each setting that somebody set, for the header."""
    return [f"{name}={_shown(getattr(settings, name))} (from {source})" for name, source in settings.sources.items()]


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
