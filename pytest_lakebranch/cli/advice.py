"""What would make branches quicker on this machine, with the exact commands."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_lakebranch.config import Rung
from pytest_lakebranch.processes import LINUX

SWITCHES = {
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "user/max_user_namespaces": ("0", "15000"),
}
"""Under /proc/sys: what forbids user namespaces to ordinary users, and what allows them."""
CONTAINERS = ("/.dockerenv", "/run/.containerenv")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (named to the user, not written to)
ROOMY = 4 << 30
MOST = 50 << 30


@dataclass(frozen=True, slots=True)
class Advice:
    """Why something would help, and the shell commands that do it."""

    why: str
    commands: tuple[str, ...]


def advice(rung: Rung, *, namespaces: bool, home: Path) -> list[Advice]:
    """What would help, the easiest first; nothing where branches are as quick as they get."""
    if not LINUX or rung == "snapshot":
        return []
    found = [] if namespaces else list(_allow_namespaces())
    if rung in ("copy", "reflink") and SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ROOMY:
        directory = SHARED_MEMORY / f"lakebranch-{os.geteuid()}"
        why = "a state directory in memory, where a copy costs least; gone after a restart of the machine"
        found.append(Advice(why, (f"export LAKEBRANCH_HOME={directory}",)))
    why = "a btrfs volume in a file: branches of any size at once"
    if rung == "overlay":
        why += "; with an overlay, a test pays for the copy of each table that it is the first to open"
    size = min(MOST, shutil.disk_usage(_existing(home)).free // 2) >> 30
    return [*found, Advice(why, btrfs_volume(home.with_name(f"{home.name}.btrfs"), Path("/mnt/lakebranch"), size))]


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _allow_namespaces() -> Iterator[Advice]:
    why = "user namespaces, for overlays: branches of any size start at once"
    if any(Path(mark).exists() for mark in CONTAINERS):
        options = "--security-opt seccomp=unconfined --security-opt apparmor=unconfined"
        yield Advice(f"{why}; this is a container", (f"docker run {options} …",))
    commands = [
        f"{sudo()}sysctl -w {name.replace('/', '.')}={allows}"
        for name, (forbids, allows) in SWITCHES.items()
        if _read(Path("/proc/sys", name)) == forbids
    ]
    if commands:
        yield Advice(why, tuple(commands))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def sudo() -> str:
    """What goes before a command that only root may run."""
    return "" if os.geteuid() == 0 else "sudo "


def btrfs_volume(image: Path, mount: Path, gigabytes: int) -> tuple[str, ...]:
    """Commands that make a btrfs volume in the file ``image``, mounted on ``mount``, and use it."""
    root, file, place = sudo(), shlex.quote(str(image)), shlex.quote(str(mount))
    tools = () if shutil.which("mkfs.btrfs") else (f"{root}apt-get install -y btrfs-progs",)
    return (
        *tools,
        f"mkdir -p {shlex.quote(str(image.parent))}",
        f"truncate -s {max(gigabytes, 1)}G {file}",
        f"mkfs.btrfs -q {file}",
        f"{root}mkdir -p {place}",
        f"{root}mount -o loop,noatime,user_subvol_rm_allowed {file} {place}",
        f"{root}chown {os.geteuid()}:{os.getegid()} {place}",
        f"export LAKEBRANCH_HOME={place}",
    )
