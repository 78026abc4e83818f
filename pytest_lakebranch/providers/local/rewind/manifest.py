"""What lies in a sealed data directory, ordered as rewinding asks for it: by folder, and by relation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_lakebranch.providers.local.catalog_cache import KEPT, NAME
from pytest_lakebranch.providers.local.storage.tree import Tree

NEVER_PUT_BACK = frozenset({"pg_control"})
"""Files in these folders that belong to the running server, and not to the databases."""
OTHERS_OF_POSTGRESQL = NEVER_PUT_BACK | {"PG_VERSION", "pg_filenode.map", NAME, KEPT}
"""Files in these folders that are no relation's."""
BLOCK = 8192
RELATION_FILE = re.compile(r"(\d+)(_fsm|_vm|_init)?(?:\.(\d+))?")
"""What md.c calls a relation's file: its number, its fork, and its segment of 1 GB (relpath.c, md.c)."""

Relation = tuple[int, int]
"""A database (0: shared by all) and a file number in it."""


def folder_of(database: int) -> str:
    """The directory of a database's relations, relative to the data directory."""
    return "global" if database == 0 else f"base/{database}"


@dataclass(slots=True)
class Manifest:
    """Sizes of all sealed files of databases: ``folders`` by directory and name, ``relations`` by fork and segment.
    ``foreign`` are paths that are not PostgreSQL's: an extension's, or what a superuser has written there.

    It is kept in memory, so that a sealed file that was removed or damaged meanwhile is never taken for one that
    did not exist.
    """

    folders: dict[str, dict[str, int]] = field(default_factory=dict)
    relations: dict[Relation, dict[str, list[int]]] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    @classmethod
    def of(cls, tree: Tree) -> Manifest:
        """The manifest of a sealed tree."""
        made = cls({name: {} for name in tree.directories if is_folder(name)})
        made.foreign = tuple(filter(is_foreign, (*tree.files, *tree.directories)))
        for path in sorted(tree.files, key=_natural):
            folder, _, name = path.rpartition("/")
            if folder in made.folders and name not in NEVER_PUT_BACK:
                made.folders[folder][name] = tree.files[path].size
                made._note(folder, name, tree.files[path].size)
        return made

    def _note(self, folder: str, name: str, size: int) -> None:
        found = parsed(folder, name)
        if found is not None:
            relation, fork = found
            self.relations.setdefault(relation, {}).setdefault(fork, []).append(size)

    def forks(self, relation: Relation) -> Mapping[str, list[int]]:
        """The sealed sizes of a relation's segments by fork; empty when it was not there."""
        return self.relations.get(relation, {})

    def blocks(self, relation: Relation) -> int:
        """The sealed length of a relation's main fork."""
        return sum(self.forks(relation).get("", ())) // BLOCK

    @property
    def unlogged(self) -> tuple[Relation, ...]:
        """Relations whose changes the log does not tell: each has an ``init`` fork, and nothing else has."""
        return tuple(relation for relation, forks in self.relations.items() if "_init" in forks)


def is_folder(name: str) -> bool:
    """Whether a directory holds relations."""
    return name == "global" or (name.startswith("base/") and name[5:].isdigit())


def is_foreign(path: str) -> bool:
    """Whether something in a directory of relations is not PostgreSQL's."""
    folder, _, name = path.rpartition("/")
    return is_folder(folder) and name not in OTHERS_OF_POSTGRESQL and parsed(folder, name) is None


def parsed(folder: str, name: str) -> tuple[Relation, str] | None:
    """The relation and the fork that a file belongs to; None for other files."""
    found = RELATION_FILE.fullmatch(name)
    if found is None:
        return None
    return (0 if folder == "global" else int(folder.removeprefix("base/")), int(found[1])), found[2] or ""


def segment_name(number: int, fork: str, segment: int) -> str:
    """The name of one segment's file."""
    return f"{number}{fork}.{segment}" if segment else f"{number}{fork}"


def _natural(path: str) -> tuple[str, int]:
    """Segments in order: ``16385``, ``16385.1``, ``16385.2``, …, ``16385.10``."""
    stem, dot, segment = path.rpartition(".")
    return (stem, int(segment)) if dot and segment.isdigit() else (path, 0)
