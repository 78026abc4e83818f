"""PostgreSQL's cache of its catalog (pg_internal.init): kept with what is sealed, given to each branch.

Every start of a server removes these files (RelationCacheInitFileRemove), and the first connection to each database
makes them anew from the catalog, which costs more than all else it does. What is in them follows from the catalog
alone, so those of the sealed state are right for a branch that nobody has written to yet.
"""

from __future__ import annotations

from pathlib import Path

NAME = "pg_internal.init"
KEPT = "lakebranch.init"
"""Its name while sealed; PostgreSQL does not know it, and so leaves it alone."""


def keep(data: Path) -> None:
    """Put the files of a stopped server aside."""
    for path in (*data.glob(f"global/{NAME}"), *data.glob(f"base/*/{NAME}")):
        path.rename(path.with_name(KEPT))


def read(sealed: Path) -> dict[str, bytes]:
    """What was kept with a sealed data directory, by the directory it belongs into."""
    kept = (*sealed.glob(f"global/{KEPT}"), *sealed.glob(f"base/*/{KEPT}"))
    return {str(path.parent.relative_to(sealed)): path.read_bytes() for path in kept}


def give(data: Path, caches: dict[str, bytes]) -> None:
    """Bring what was kept into the data directory of a server that is ready and that nobody has connected to."""
    for folder, content in caches.items():
        (data / folder / NAME).write_bytes(content)
