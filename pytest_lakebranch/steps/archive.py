"""What a dump is, by its content: which of pg_dump's formats, and which PostgreSQL made it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_lakebranch.errors import ConfigError

Format = Literal["plain", "custom", "directory", "tar"]
HEAD = 65536
_TAR_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"BZh": "bzip2"}
_WITH_COMPRESSION_BYTE = (1, 15)
"""Archive version from which the header has one byte for the compression's method instead of a number."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A dump's format, and the versions of the server it was made from and of the pg_dump; empty when unknown.

    ``makes_public`` is known of plain dumps only: whether the schema ``public`` is created.
    """

    format: Format
    server: str
    pg_dump: str
    makes_public: bool = False

    @property
    def maker(self) -> str:
        """The newer of both versions: what is needed to restore it."""
        return max(self.server, self.pg_dump, key=major)


def major(version: str) -> int:
    """The major version; 0 when there is none."""
    found = re.match(r"\d+", version)
    return int(found[0]) if found else 0


def read(path: Path, label: str) -> Archive:
    """What the dump at ``path`` is; ConfigError when it is none, or none that makes one database."""
    try:
        if path.is_dir():
            return _directory(path, label)
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise ConfigError(f"{label}: {path} cannot be read: {error.strerror}.") from error
    if head.startswith(b"PGDMP"):
        return Archive("custom", *_versions(head))
    if head[257:262] == b"ustar":
        return _tar(head, path, label)
    _check_plain(head, path, label)
    makes_public = b"\nCREATE SCHEMA public;" in head
    return Archive("plain", _comment(head, "from database"), _comment(head, "by pg_dump"), makes_public)


def _directory(path: Path, label: str) -> Archive:
    toc = path / "toc.dat"
    if not toc.is_file():
        raise ConfigError(
            f"{label}: the folder {path} has no toc.dat: it was not made by `pg_dump --format=directory`."
        )
    with toc.open("rb") as file:
        return Archive("directory", *_versions(file.read(HEAD)))


def _tar(head: bytes, path: Path, label: str) -> Archive:
    if head[:8] != b"toc.dat\0":
        raise ConfigError(f"{label}: {path} is a tar file, but not one of `pg_dump --format=tar` (no toc.dat).")
    return Archive("tar", *_versions(head[_TAR_BLOCK:]))


def _check_plain(head: bytes, path: Path, label: str) -> None:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ConfigError(f"{label}: {path} is compressed with {name}. Unpack it; pg_restore reads it then.")
    if not head.strip():
        raise ConfigError(f"{label}: {path} is empty: was pg_dump interrupted?")
    if b"\0" in head or head.startswith((b"-- MySQL dump", b"SQLite format")):
        raise ConfigError(f"{label}: {path} is none of pg_dump's formats (plain, custom, directory, tar).")
    if b"-- PostgreSQL database cluster dump" in head:
        raise ConfigError(
            f"{label}: {path} is a dump of a whole cluster, made by pg_dumpall. "
            "Make one of the database that is tested: `pg_dump DATABASE`."
        )
    moved = re.search(rb"^\\connect +(?:-reuse-previous=on )?(\S.*)$", head, re.MULTILINE)
    if moved:
        raise ConfigError(
            f"{label}: {path} connects to a database of its own ({moved[1].decode(errors='replace').strip()}), so "
            "lakebranch_database would stay empty. Make the dump again with `pg_dump` without --create."
        )


def _comment(head: bytes, what: str) -> str:
    found = re.search(rf"^-- Dumped {what} version (\S+)".encode(), head, re.MULTILINE)
    return found[1].decode(errors="replace") if found else ""


def _versions(head: bytes) -> tuple[str, str]:
    """Server's and pg_dump's versions from an archive's header (WriteHead in pg_backup_archiver.c)."""
    try:
        reader = _Reader(head, integer=head[8])
        reader.skip(11)  # PGDMP, three bytes of version, sizes of integer and offset, format
        if (head[5], head[6]) >= _WITH_COMPRESSION_BYTE:
            reader.skip(1)
        else:
            reader.number()
        for _ in range(7):  # when it was made: second to year, and daylight saving
            reader.number()
        reader.text()  # the database's name
        return reader.text().partition(" ")[0], reader.text().partition(" ")[0]
    except IndexError:
        return "", ""


class _Reader:
    """Reads numbers (a sign byte, then little-endian) and counted strings one after the other."""

    __slots__ = ("_at", "_bytes", "_integer")

    def __init__(self, head: bytes, *, integer: int) -> None:
        self._bytes, self._integer, self._at = head, integer, 0

    def skip(self, count: int) -> bytes:
        self._at += count
        return self._bytes[self._at - count : self._at]

    def number(self) -> int:
        negative = self.skip(1) == b"\x01"
        size = int.from_bytes(self.skip(self._integer), "little")
        return -size if negative else size

    def text(self) -> str:
        return self.skip(max(0, self.number())).decode(errors="replace")
