"""Leaving a branch for a human: its server is stopped, and its directory moved to where it outlives the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pytest_lakebranch import kept
from pytest_lakebranch.directories import occupied, remove_tree
from pytest_lakebranch.errors import BranchError
from pytest_lakebranch.kept import Kept
from pytest_lakebranch.providers.local import branch_file
from pytest_lakebranch.providers.local.reopen import put_over
from pytest_lakebranch.providers.local.server import Server
from pytest_lakebranch.providers.local.storage.base import Place, Sealed, Storage
from pytest_lakebranch.providers.local.storage.tree import NEVER_COPIED

STOP_SECONDS = 30.0


def bring_to_rest(server: Server) -> None:
    """Stop the server so that nothing is lost: with a clean shutdown unlogged tables keep their rows.

    One that died, or that does not stop in half a minute, is left as a crash leaves it; its log is replayed when the
    branch is opened.
    """
    try:
        server.stop_cleanly(STOP_SECONDS)
    except BranchError:
        server.stop_at_once()
    remove_tree(server.sockets)


def _stand_alone(place: Place, sealed: Sealed, storage: Storage) -> None:
    """Give an overlay branch all files that it shows: what it stands on goes with the run."""
    data = place.directory / "data"
    storage.copy(sealed.data, data, sealed.tree)
    put_over(place.directory / "upper", data)
    remove_tree(place.directory / "upper")
    path = place.directory / branch_file.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "rung": "copy"}))


def leave(place: Place, sealed: Sealed, note: Kept, target: Path, *, alone: Storage | None) -> Kept:
    """Move a branch at rest to ``target``, with its note; returns what is known of it now. Raises OSError.

    With ``alone`` it must not stand on ``sealed``. The move is one rename: there is a whole kept branch or none.
    """
    if alone is not None and place.overlay is not None:
        _stand_alone(place, sealed, alone)
    for name in ("work", "merged"):
        remove_tree(place.directory / name)
    data = place.directory / "data"
    if place.overlay is not None and not data.is_dir():
        note, data = replace(note, stands_on=str(sealed.data)), place.directory / "upper"
    for name in NEVER_COPIED:
        (data / name).unlink(missing_ok=True)
    note = replace(note, bytes=occupied(place.directory))
    kept.write(place.directory, note)
    place.directory.rename(target)
    return note
