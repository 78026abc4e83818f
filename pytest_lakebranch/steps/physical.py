"""A copy of a running server's files (pg_basebackup): whether the role may have it and it is of use here is found out
before anything is copied.

The original makes a checkpoint for it, and keeps nothing of it: no replication slot, which could fill its disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_lakebranch.amounts import many, size_text
from pytest_lakebranch.masking import masked
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.servant import hand_over, servant
from pytest_lakebranch.steps import layout, programs
from pytest_lakebranch.steps.base import Replacement, Workplace
from pytest_lakebranch.steps.failures import Failure

NOT_HERE = "only the first step of a local base can copy files"
SUPERUSER = "postgres"
SENDERS = 2
"""Connections that pg_basebackup needs at once: for the files, and for the log that is written meanwhile."""
PART = 4
"""Other databases come along and are removed: together they may have so great a part of this one's size."""
SLACK = 64 << 20
"""Bytes of other databases that are of no account."""
AT_ONCE = 256 << 20
"""Bytes of shared buffers up to which a checkpoint is asked for at once: writing them is over in a second or so. A
server with more makes it at its own pace, so that its clients notice nothing; that may take minutes.
"""
LOOK = f"""
WITH base AS (SELECT *, pg_has_role('pg_read_all_stats', 'usage') OR has_database_privilege(oid, 'connect') AS seen
  FROM pg_database WHERE NOT datistemplate)
SELECT jsonb_build_object(
  'may', (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = session_user),
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'senders', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication),
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'prepared', (SELECT count(*) FROM pg_prepared_xacts),
  'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
  'templates', (SELECT count(*) FROM pg_database WHERE datname = 'template0'),
  'buffers', pg_size_bytes(current_setting('shared_buffers')),
  'database', current_database(), 'size', pg_database_size(current_database()),
  'hidden', (SELECT count(*) FROM base WHERE NOT seen),
  'others', (SELECT coalesce(sum(CASE WHEN seen THEN pg_database_size(oid) END), 0) FROM base
    WHERE datname <> current_database()),
  'encodings', (SELECT jsonb_agg(pg_encoding_to_char(encoding)) FROM pg_database
    WHERE datname IN (current_database(), 'template0')),
  'format', ({layout.FORMAT}), 'locale', ({layout.LOCALE}), 'extensions', ({layout.EXTENSIONS}),
  'libraries', ({layout.LIBRARIES}), 'compressions', ({layout.COMPRESSIONS}), 'collations', ({layout.COLLATIONS}))"""  # noqa: S608  (parts of our own)


@dataclass(frozen=True, slots=True)
class Original:
    """A server whose files can be copied, as pg_basebackup is to find it, and where to; ``size`` is the database's, in
    bytes.
    """

    source: Mapping[str, str]
    into: Path
    replacement: Replacement
    database: str
    size: int
    at_once: bool


def look(source: Mapping[str, str], place: Workplace, *, version: int, user: str) -> Original | str:
    """The original, whose version is known, as it can be copied physically; or why it cannot.

    ``user`` is the role that tests connect as.
    """
    if place.replacement is None:
        return NOT_HERE
    if version // 10000 != place.binaries.major:
        return f"it is PostgreSQL {version // 10000}, and here is {place.binaries.major}"
    if not programs.is_there(place, "pg_basebackup"):
        return f"{place.binaries.directory} has no pg_basebackup"
    done = programs.ask(source, place, LOOK)
    if done.status:
        return f"it cannot be looked at: {_said(done)}"
    facts = json.loads(done.output)
    reason = next(_reasons(facts, user), None) or _difference(facts, place) or _refusal(facts, source, place)
    into = None if reason else place.replacement.directory()
    if into is None:
        return reason or NOT_HERE
    return Original(
        source, into, place.replacement, facts["database"], facts["size"], at_once=facts["buffers"] <= AT_ONCE
    )


def _reasons(facts: Mapping[str, Any], user: str) -> Iterator[str]:
    if not facts["may"]:
        yield "its role may not replicate"
    if facts["senders"] < SENDERS:
        yield f"it has no {SENDERS} connections for replication left (max_wal_senders)"
    if facts["tablespaces"]:
        yield "it has tablespaces"
    if facts["prepared"]:
        yield "it has prepared transactions"
    if facts["superuser"] != SUPERUSER and facts["superuser"] == user:
        yield f"{user}, which tests connect as, is the superuser that it was made with"
    if not facts["templates"] or "\n" in facts["database"]:
        yield "it has no template0, or a database with an odd name"
    if facts["hidden"]:
        yield f"it has {many(facts['hidden'], 'other database')} whose size its role may not see"
    if facts["others"] > max(facts["size"] // PART, SLACK):
        yield f"its other databases have {size_text(facts['others'])}, and would come along"


def _difference(facts: Mapping[str, Any], place: Workplace) -> str | None:
    with connect(place.endpoint, autocommit=True) as conn:
        return layout.difference(facts, conn)


def _refusal(facts: Mapping[str, Any], source: Mapping[str, str], place: Workplace) -> str | None:
    """Found by trying: only the server knows its pg_hba.conf, and where a pooler leads."""
    done = programs.ask({**source, "replication": "true"}, place, "IDENTIFY_SYSTEM")
    if done.status:
        return f"it takes no connection for replication: {_said(done)}"
    if done.output.partition("|")[0] != facts["system"]:
        return "its URL leads to several servers"
    return None


def _said(done: programs.Outcome) -> str:
    return masked(done.errors).strip().removeprefix("psql: error: ").partition("\n")[0]


def copy(original: Original, place: Workplace) -> Failure | None:
    """Copy the original's files."""
    options = [
        f"--pgdata={original.into}",
        f"--checkpoint={'fast' if original.at_once else 'spread'}",
        "--wal-method=stream",
        "--no-slot",
        "--no-manifest",
        "--no-sync",
        "--no-password",
        "--label=lakebranch",
    ]
    done = programs.run_against(original.source, place, "pg_basebackup", *options, cwd=place.root)
    if done.status:
        said = masked(done.errors).replace("pg_basebackup: ", "").strip()
        return Failure("pg_basebackup", said or f"status {done.status}")
    for path in original.into.rglob("*") if servant() is not None else ():
        hand_over(path)
    return None
