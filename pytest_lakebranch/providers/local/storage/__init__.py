"""The storage ladder: which rung this machine has, found by really using it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.config import RUNGS, Rung
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.providers.local.disk import FULL, disk_full, filesystem
from pytest_lakebranch.providers.local.launch import IN_MOUNT_NAMESPACE, Machine
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.base import Storage
from pytest_lakebranch.providers.local.storage.copy import CopyStorage
from pytest_lakebranch.providers.local.storage.overlay import OverlayStorage, options
from pytest_lakebranch.providers.local.storage.reflink import MACOS, ReflinkStorage
from pytest_lakebranch.providers.local.storage.snapshot import SnapshotStorage
from pytest_lakebranch.providers.local.storage.tree import Tree

STORAGES: dict[Rung, Callable[[], Storage]] = {
    "snapshot": SnapshotStorage,
    "overlay": OverlayStorage,
    "reflink": ReflinkStorage,
    "copy": CopyStorage,
}
EMPTY = Tree((), {})
TRY_OVERLAY = 'cd "$1" && mount -t overlay -o "$2" overlay merged && rmdir merged/gone && mkdir merged/gone'


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rung that branches will use, and why."""

    storage: Storage
    reason: str


def choose(wanted: str, *, directory: Path, machine: Machine) -> Chosen:
    """The wanted rung, or for ``auto`` the first that works in ``directory``.

    Raises MachineError, with the system's answer and the rungs that would work, when the wanted one does not.
    """
    where = f"state directory is {filesystem(directory)}"
    if wanted == "auto":
        rung = next(rung for rung in RUNGS if refusal(rung, directory=directory, machine=machine) is None)
        return Chosen(STORAGES[rung](), f"{where}; {_REASONS[rung]}")
    rung = next(rung for rung in RUNGS if rung == wanted)
    said = refusal(rung, directory=directory, machine=machine)
    if said is None:
        return Chosen(STORAGES[rung](), f"asked for; {where}")
    working = [other for other in RUNGS if refusal(other, directory=directory, machine=machine) is None]
    raise MachineError(
        f"lakebranch_storage is {wanted!r}, but that does not work in {directory} ({where}). "
        f"Tried: {_TRIED[rung]}. The system said: {said}. Here would work: {', '.join(working)} (or auto)."
    )


_REASONS: dict[Rung, str] = {
    "snapshot": "subvolumes can be snapshotted",
    "overlay": "user namespaces allowed",
    "reflink": "files can share blocks",
    "copy": "no quicker rung works here",
}
_TRIED: dict[Rung, str] = {
    "snapshot": "making, snapshotting and deleting a btrfs subvolume",
    "overlay": f"mounting an overlay with {' '.join(IN_MOUNT_NAMESPACE)}",
    "reflink": "cloning a file (FICLONE; clonefile on macOS)",
    "copy": "copying a file",
}


def refusal(rung: Rung, *, directory: Path, machine: Machine) -> str | None:
    """What the system says when ``rung`` is tried in ``directory``; None when it works. Leaves nothing there."""
    try:
        with _temporary(directory) as place:
            return _TRY[rung](place, machine)
    except OSError as error:
        if error.errno in FULL:
            raise disk_full(directory, "trying what the state directory can do") from error
        return f"{error.strerror} ({error.filename})" if error.filename else f"{error.strerror}"


@contextlib.contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    """Its name tells the reaper whose it is, should we be killed."""
    place = Path(tempfile.mkdtemp(prefix=f".try-{Identity.of(os.getpid()).token}_", dir=directory))
    try:
        yield place
    finally:
        remove_tree(place)


def _try_snapshot(place: Path, _machine: Machine) -> str | None:
    if MACOS:
        return "macOS has no btrfs"
    storage = SnapshotStorage()
    storage.make(place / "a")
    try:
        storage.copy(place / "a", place / "b", EMPTY)
    finally:
        storage.remove(place)
    place.mkdir()
    return None


def _try_overlay(place: Path, machine: Machine) -> str | None:
    if not machine.namespaces:
        return "user namespaces are not allowed"
    for path in ("lower", "lower/gone", "branch", "branch/upper", "branch/work", "branch/merged"):
        (place / path).mkdir()
    words = ["sh", "-c", TRY_OVERLAY, "sh", str(place / "branch"), options(place / "lower", place / "branch")]
    done = subprocess.run([*IN_MOUNT_NAMESPACE, *words], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit status {done.returncode}"


def _try_reflink(place: Path, _machine: Machine) -> str | None:
    (place / "a").mkdir()
    (place / "a" / "file").write_bytes(bytes(8192))
    if MACOS:
        ReflinkStorage().copy(place / "a", place / "b", EMPTY)
        return None
    source, target = os.open(place / "a" / "file", os.O_RDONLY), os.open(place / "c", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        copying.share_blocks(source, target)
    finally:
        os.close(source)
        os.close(target)
    return None


def _try_copy(place: Path, _machine: Machine) -> str | None:
    (place / "file").write_bytes(b"x")
    return None


_TRY: dict[Rung, Callable[[Path, Machine], str | None]] = {
    "snapshot": _try_snapshot,
    "overlay": _try_overlay,
    "reflink": _try_reflink,
    "copy": _try_copy,
}
