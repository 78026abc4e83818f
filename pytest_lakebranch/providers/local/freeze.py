"""Freezing the present of a running branch: an online base backup, recovered and stopped.

Unlogged tables are empty in what was frozen, as after a crash: the log does not know their rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.providers.local import catalog_cache, control_file
from pytest_lakebranch.providers.local.control_file import SEGMENT, segment_suffix
from pytest_lakebranch.providers.local.launch import Launcher
from pytest_lakebranch.providers.local.seal import strip
from pytest_lakebranch.providers.local.server import MAINTENANCE, Running, session
from pytest_lakebranch.providers.local.storage.base import Storage
from pytest_lakebranch.providers.local.storage.tree import Tree, scan

EMPTIED = (
    "pg_wal",
    "pg_replslot",
    "pg_dynshmem",
    "pg_notify",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
)
"""Directories whose content does not belong into a backup (PostgreSQL documentation, 25.3.4)."""
SPACES = "select spcname from pg_tablespace where spcname not in ('pg_default', 'pg_global')"
TEMPORARY = re.compile(r"t\d+_\d+(_\w+)?(\.\d+)?")
"""What a temporary table's file is called: a server removes it when it starts (RemovePgTempRelationFiles, fd.c)."""
PAGE_HEADER = 40
"""Bytes at the beginning of each log segment: where the next record goes after the log was switched to it."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The end of an online backup: what to add to the copy, and the place in the log from which it is a past state."""

    label: str
    first: int
    end: int

    @property
    def segments(self) -> list[str]:
        """Names (their last sixteen digits) of the log segments that the copy needs."""
        return [segment_suffix(at) for at in range(self.first // SEGMENT * SEGMENT, self.end, SEGMENT)]


def freeze(server: Running, target: Path, *, storage: Storage) -> Backup:
    """Copy the data directory of a running server to ``target``, consistent once it is recovered.

    Clients may write meanwhile. Raises OSError, psycopg.Error or BranchError.
    """
    source = server.data
    with session(server, MAINTENANCE) as backup_session:
        _check_spaces(server.name, [str(row[0]) for row in backup_session.execute(SPACES)])
        backup_session.execute("select pg_backup_start('lakebranch', fast => true)")
        storage.copy(source, target, _wanted(scan(source)), live=True)
        _copy_control(source, target)
        row = backup_session.execute(
            "select lsn::text, labelfile from pg_backup_stop(wait_for_archive => false)"
        ).fetchone()
    assert row is not None  # noqa: S101  (a function call in SELECT gives one row)
    backup = Backup(label=row[1], first=_start(row[1]), end=_end_of_segment(control_file.position(row[0])))
    _complete(source, target, backup)
    return backup


def _check_spaces(branch: str, names: list[str]) -> None:
    if names:
        raise BranchError(
            f"{branch} cannot be forked: it has tablespaces, which the fork would share: {', '.join(names)}. "
            "Drop them before the fork, or leave tables in the default tablespace."
        )


def _wanted(tree: Tree) -> Tree:
    files = {name: entry for name, entry in tree.files.items() if name.split("/")[0] not in EMPTIED}
    directories = tuple(name for name in tree.directories if "/" not in name or name.split("/")[0] not in EMPTIED)
    return Tree(directories, files)


def _copy_control(source: Path, target: Path) -> None:
    """Copy pg_control until two readings agree: it may be read while it is written."""
    path = Path("global", "pg_control")
    before, now = b"", (source / path).read_bytes()
    while before != now:
        before, now = now, (source / path).read_bytes()
    (target / path).write_bytes(now)


def _start(label: str) -> int:
    found = re.search(r"START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+)", label)
    if found is None:
        raise BranchError(f"PostgreSQL gave a backup label without a start: {label!r}")
    return control_file.position(found[1])


def _end_of_segment(position: int) -> int:
    """Where the segment ends in which a backup's last record ends: pg_backup_stop switches the log there."""
    return -(-position // SEGMENT) * SEGMENT


def _complete(source: Path, target: Path, backup: Backup) -> None:
    """Replace the copy's log by the part that recovery needs, and tell recovery where to begin."""
    for folder in EMPTIED:
        for path in _content(target / folder):
            remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (target / "pg_wal" / "archive_status").mkdir(mode=0o700, exist_ok=True)
    for name in ("postmaster.pid", "postmaster.opts", "standby.signal", "recovery.signal"):
        (target / name).unlink(missing_ok=True)
    for path in target.glob("base/*/t*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink()
    (target / "backup_label").write_text(backup.label)
    available = {path.name[8:]: path for path in (source / "pg_wal").iterdir() if len(path.name) == 24}
    _copy_log(target, (available.get(segment) for segment in backup.segments))


def _content(directory: Path) -> Iterator[Path]:
    return iter(list(directory.iterdir()) if directory.is_dir() else [])


def _copy_log(target: Path, segments: Iterable[Path | None]) -> None:
    for segment in segments:
        if segment is None:
            raise BranchError(
                "the log of the copied branch was recycled during the copy: too much was written meanwhile."
            )
        (target / "pg_wal" / segment.name).write_bytes(segment.read_bytes())


def recover(data: Path, *, launcher: Launcher, command: list[str], database: str, log: Path) -> None:
    """Bring a copied data directory to rest: replay its log, and shut down. Raises BranchError with the log's end.

    A single-user server does both. VACUUM in the tests' database marks what is visible to all: without that,
    the first SELECT of each branch would do it, and no branch would be found clean.
    """
    launcher.run([*command, database], log=log, told="vacuum (freeze)\n")
    if not _is_at_rest(data):
        launcher.run([*command, "template1"], log=log)  # the tests' database was dropped or locked
    if not _is_at_rest(data):
        end = log.read_text(errors="replace")[-2000:]
        raise BranchError(f"the copy of a running branch could not be recovered:\n{end}")
    for name in ("backup_label.old", "tablespace_map.old"):
        (data / name).unlink(missing_ok=True)
    for path in data.glob(f"**/{catalog_cache.KEPT}"):
        path.unlink()
    catalog_cache.keep(data)
    strip(data)


def _is_at_rest(data: Path) -> bool:
    return control_file.read(data).state == control_file.SHUT_DOWN and not (data / "backup_label").exists()
