"""Root where user namespaces are refused, as in most containers: servers, which refuse root, run as another uid.

Our own processes stay root. What the host makes belongs to that uid from the beginning: its threads make files as it
(setfsuid(2)) and keep root's right to read everything.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from pathlib import Path

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import LINUX

NOBODY = 65534
"""Whom Linux calls nobody; every image has the name, which initdb looks up."""
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 1 << 2
UID_INSIDE = 1000
"""Whom root becomes in a user namespace of a server: any uid but 0, which PostgreSQL refuses."""


def own_namespace() -> tuple[str, ...]:
    """What goes before a program to give it a user namespace, where root is an ordinary user, and an IPC namespace."""
    uid, gid = (os.geteuid() or UID_INSIDE), (os.getegid() or UID_INSIDE)
    return ("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--ipc")


@functools.cache
def lack_of_namespaces() -> str:
    """Why programs cannot be given user namespaces, found by trying; empty where they can."""
    if not LINUX:
        return "this system has no user namespaces"
    if shutil.which("unshare") is None:
        return "no user namespace can be made without the program unshare (util-linux), which is not on PATH"
    return "" if works(own_namespace(), "true") else "this machine refuses user namespaces"


def has_namespaces() -> bool:
    """Whether programs can be given user namespaces."""
    return not lack_of_namespaces()


def works(prefix: tuple[str, ...], *program: str) -> bool:
    """Whether a program runs to its end."""
    if shutil.which(prefix[0]) is None:
        return False
    return subprocess.run([*prefix, *program], capture_output=True, check=False).returncode == 0


def servant() -> int | None:
    """The uid that servers run as where it is not ours: None but for root without user namespaces."""
    return NOBODY if LINUX and os.geteuid() == 0 and not has_namespaces() else None


def become_servant() -> tuple[str, ...]:
    """What goes before a program to run it as the servant. The parent-death signal must be asked for after it."""
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def make_files_as_servant() -> None:
    """What this thread, and threads that it starts, make from now on belongs to the servant, if there is one.

    Raises MachineError when the system refuses that.
    """
    if servant() is None:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0):  # else setfsuid would take root's rights away
        raise MachineError(
            f"PostgreSQL refuses to run as root, this machine refuses user namespaces, and to act for uid {NOBODY} is "
            f"not permitted either ({os.strerror(ctypes.get_errno())}; it needs CAP_SETPCAP, CAP_SETUID and "
            "CAP_DAC_OVERRIDE, which Docker gives by default). Run pytest as an ordinary user."
        )
    libc.setfsgid(NOBODY)
    libc.setfsuid(NOBODY)


def hand_over(path: Path) -> None:
    """Give what we have made to the servant, if there is one."""
    if (uid := servant()) is not None and path.lstat().st_uid != uid:
        os.chown(path, uid, uid, follow_symlinks=False)


def closed_to_servant(path: Path) -> Path | None:
    """The outermost directory on the way to ``path``, and with it, that keeps the servant out; None if none does."""
    uid = servant()
    for place in way_to(path) if uid is not None else ():
        if place.exists() and not _lets_in(place, uid):
            return place
    return None


def way_to(path: Path) -> tuple[Path, ...]:
    """The directories on the way to ``path``, and with it, from the root on; then those on the way that links take."""
    real = Path(os.path.realpath(path))
    ways = (path,) if real == path else (path, real)
    return tuple(place for way in ways for place in reversed((way, *way.parents)))


def _lets_in(place: Path, uid: int | None) -> bool:
    found = place.stat()
    return bool(found.st_mode & (0o100 if found.st_uid == uid else 0o001))
