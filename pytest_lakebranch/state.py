"""The state directory and the socket directory: their layout, rights and limits.

    HOME/FORMAT             the layout's version; a newer one is refused
    HOME/layers/KEY/        a sealed layer
    HOME/notes/             what was worked out about files, see steps/notes.py
    HOME/kept/RUN-BRANCH/   a branch that was left for a human
    HOME/runs/RUN/          one run: alive.lock, host.log, ledger.jsonl, branches/, building/
    SOCKETS/RUN/            the sockets of one run; short, because a socket's path must stay under 104 bytes

All directories are made by us with mode 0700; one that belongs to somebody else is refused, never changed.
HOME itself may be an existing directory of any mode: nothing but FORMAT lies in it openly. One that we chose where
everybody may make directories is refused if it is not ours, or others may write to it.
Where servers of root run as another uid, HOME/nobody takes the place of HOME: neither they nor those of a root that has
user namespaces, which may be the same on another day or share the volume, can read what the others made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.servant import closed_to_servant, hand_over, lack_of_namespaces, servant, way_to

FORMAT = 1
SOCKET_PATH_LIMIT = 103
"""Bytes of a socket's path that every supported system takes (sun_path: 104 on macOS, 108 on Linux, with the NUL)."""
HOME_PATH_LIMIT = 800
"""Bytes of the state directory's path: a server takes 1023 for any of its files (MAXPGPATH, pg_config_manual.h)."""
OWNER = "owner"
ALIVE = "alive.lock"
"""In the directory of a run: its host holds the lock as long as it lives."""
FOR_SERVANT = "/var/tmp/pytest-lakebranch-0"  # noqa: S108  (owner checked)
"""The state directory of root where servers run as another uid, which cannot get into root's home directory."""
OF_SERVANT = "nobody"
SOCKET_NAME = ".s.PGSQL.5432"
CLOUD_RECORD = "cloud.json"
"""In the directory of a run that has branches in a cloud, until these are gone: who deletes them needs it."""
PORT = 5432
"""Every compute uses this port number in a directory of its own, so that a URL differs by its directory only."""


@dataclass(frozen=True, slots=True)
class State:
    """The state directory of this machine's user."""

    home: Path

    @classmethod
    def at(cls, home: str) -> State:
        """The state directory at ``home``; empty means the default one. Nothing is made yet. What :attr:`home` is then
        may be given back as ``home``, and means the same one. Raises MachineError when the default is somebody else's.

        Links on the way to it are followed once and for all: below /proc/PID/root they would lead elsewhere, and what
        is noted of a path is to be found again by whoever takes another way.
        """
        found = Path(os.path.realpath(home or default_home()))
        return cls(found if servant() is None or found.name == OF_SERVANT else found / OF_SERVANT)

    @property
    def layers(self) -> Path:
        """The cache of sealed layers."""
        return self.home / "layers"

    @property
    def kept(self) -> Path:
        """Branches that were left for a human."""
        return self.home / "kept"

    @property
    def runs(self) -> Path:
        """One directory for each run that lives, or died without cleaning up."""
        return self.home / "runs"

    @property
    def notes(self) -> Path:
        """What was worked out about files."""
        return self.home / "notes"

    def ensure(self) -> State:
        """Make the directories.

        Raises MachineError when that is impossible, the path is too long for PostgreSQL, or the directory was made by
        a newer version.
        """
        if len(os.fsencode(self.home)) > HOME_PATH_LIMIT:
            raise MachineError(
                f"the path of the state directory has {len(os.fsencode(self.home))} bytes; {HOME_PATH_LIMIT} are the "
                f"most that PostgreSQL can work below ({str(self.home)[:60]}…). Set LAKEBRANCH_HOME to a shorter one."
            )
        try:
            self._check_reachable()  # before anything is made, and given away, in a place that is of no use
            if servant() is not None:
                _make_passable(self.home.parent)
                make_private(self.home)
            elif not self.home.is_dir():
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_format()
            for directory in (self.layers, self.runs, self.kept, self.notes):
                make_private(directory)
            self._write_format()
            self._check_reachable()
        except OSError as error:
            raise MachineError(
                f"the state directory {self.home} cannot be used: {error.strerror} ({error.filename}). "
                "Set LAKEBRANCH_HOME (or lakebranch_home) to a directory you may write to."
            ) from error
        return self

    def _check_reachable(self) -> None:
        closed = closed_to_servant(self.runs)
        if closed is not None:
            raise MachineError(
                f"PostgreSQL refuses to run as root, and {lack_of_namespaces()}, so servers run as uid "
                f"{servant()}, and {closed} keeps that uid out of the state directory {self.home}. Set LAKEBRANCH_HOME "
                "(or lakebranch_home) to a directory below one that is open to all, such as /var/tmp/lakebranch."
            )

    def _check_format(self) -> None:
        """Before anything is made there: another version's directory stays as it is."""
        if not self._mark.exists():
            return
        found = self._mark.read_text().strip()
        if found == str(FORMAT):
            return
        what = f"has format {found!r}, this version knows {FORMAT}. Upgrade pytest-lakebranch,"
        if not found.isdecimal():
            what = f"is damaged: its file FORMAT should say {FORMAT}, and says {found!r}. Delete the directory,"
        raise MachineError(f"the state directory {self.home} {what} or set LAKEBRANCH_HOME to another directory.")

    @property
    def _mark(self) -> Path:
        return self.home / "FORMAT"

    @property
    def is_there(self) -> bool:
        """Whether this is a state directory, of whichever version."""
        return self._mark.exists()

    def _write_format(self) -> None:
        """At once, for others who come at the same time: whoever sees the mark sees all of it."""
        if (mark := self._mark).exists():
            return
        handle, fresh = tempfile.mkstemp(dir=mark.parent, prefix="FORMAT.")
        with open(handle, "w") as file:  # noqa: PTH123  (it is open)
            file.write(f"{FORMAT}\n")
        Path(fresh).replace(mark)


def default_home(environ: dict[str, str] | None = None) -> Path:
    """The platform's user cache directory for us; without a home directory, one in the temporary directory.

    Raises MachineError when the one in a place open to all is another user's.
    """
    import platformdirs

    environ = dict(os.environ) if environ is None else environ
    if environ.get("HOME") or environ.get("XDG_CACHE_HOME"):
        found = Path(platformdirs.user_cache_dir("pytest-lakebranch"))
        if _is_open(found.parent) or closed_to_servant(found.parent) is None:
            return found
        return _not_of_others(Path(FOR_SERVANT))
    return _not_of_others(Path(tempfile.gettempdir()) / f"pytest-lakebranch-{os.geteuid()}")


def _not_of_others(directory: Path) -> Path:
    """A directory in a place where everybody may make some. Raises MachineError when somebody else has made it."""
    if os.path.lexists(directory):
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise MachineError(
                f"{directory} is not a directory that belongs to uid {os.geteuid()} and only it may write to: it will "
                "not be used. Remove it, or set LAKEBRANCH_HOME to another directory."
            )
    return directory


def _make_passable(directory: Path) -> None:
    """Make a directory and its parents so that others can pass through, whatever the umask; those there stay so."""
    for place in reversed((directory, *directory.parents)):
        if not place.exists():
            with contextlib.suppress(FileExistsError):  # somebody else has just made it
                place.mkdir(mode=0o711)
                place.chmod(0o711)


def _is_open(directory: Path) -> bool:
    """Whether everybody may go there: then it need not be found out who servers run as."""
    return all(place.stat().st_mode & 0o001 for place in way_to(directory) if place.exists())


def make_private(directory: Path) -> Path:
    """Make ``directory`` (and its parents) with mode 0700, or accept it if it is ours and closed to others.

    Raises MachineError when it exists and belongs to another user or is a link somebody planted.
    """
    if not directory.is_dir() or directory.is_symlink():
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    _check_ours(directory)
    hand_over(directory)
    return directory


def _check_ours(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or (found.st_uid != os.geteuid() and found.st_uid != servant()):
        raise MachineError(
            f"{directory} is not a directory of uid {os.geteuid()}: it will not be used. "
            "Remove it, or point LAKEBRANCH_HOME (state) or TMPDIR (sockets) elsewhere."
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise MachineError(
            f"{directory} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): it will not be used. "
            f"Run `chmod 700 {directory}` or choose another directory."
        )


def _is_ours(runtime: Path) -> bool:
    """Whether the runtime directory is this user's: ``su`` and ``sudo -E`` leave that of another in the environment."""
    try:
        return runtime.stat().st_uid == os.geteuid() and os.access(runtime, os.W_OK | os.X_OK)
    except OSError:
        return False


def sockets_root() -> Path:
    """The directory that holds the socket directories of all runs of this user, short enough for sockets in it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    whose = f"-{servant()}" if servant() is not None else ""
    candidates = [Path(runtime) / f"lakebranch{whose}"] if runtime and _is_ours(Path(runtime)) else []
    name = f"lakebranch-{os.geteuid()}{whose}"
    candidates += [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]  # noqa: S108  (0700, owner checked)
    for candidate in candidates:
        if os.geteuid() == 0 and not _is_open(candidate.parent) and closed_to_servant(candidate.parent) is not None:
            continue
        if len(os.fsencode(candidate / "r0123456789ab" / "c12345" / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
            return make_private(candidate)
    raise MachineError(
        f"no short directory for sockets: tried {', '.join(map(str, candidates))}; "
        f"a socket's path must stay under {SOCKET_PATH_LIMIT + 1} bytes. Set TMPDIR to a shorter path."
    )


def make_owned(directory: Path, owner: Identity) -> None:
    """Make a private directory that belongs to ``owner`` from its first moment on; one that exists is left as it is."""
    if not directory.is_dir():
        fresh = _signed(directory, owner)
        make_private(fresh)
        write_owner(fresh, owner)
        try:
            fresh.rename(directory)
        except OSError:  # somebody else has made it meanwhile, or there is no room for it: the next line tells
            remove_tree(fresh)
    make_private(directory)


def _signed(directory: Path, owner: Identity) -> Path:
    """What a directory is called while it is being made or removed: the reaper knows by the name whose it is."""
    return directory.with_name(f".{directory.name}.{owner.token}.{os.getpid()}")


def make_seat() -> Path:
    """A new directory of this process's own beside those of runs, for a link that leads to its branches."""
    directory = sockets_root() / f"s{os.getpid()}-{secrets.token_hex(4)}"
    make_owned(directory, Identity.of(os.getpid()))
    return directory


def remove_owned(directory: Path) -> None:
    """Remove a directory that has an owner. Who is killed meanwhile leaves one that is seen to be nobody's any more."""
    gone = _signed(directory, Identity.of(os.getpid()))
    directory.rename(gone)
    remove_tree(gone)


@contextlib.contextmanager
def locked_if_free(path: Path, flags: int = os.O_RDWR) -> Iterator[bool]:
    """Whether nobody held the lock of this file, which is opened with ``flags``, and it is there; held in the block."""
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def write_owner(directory: Path, process: Identity) -> None:
    """Note in a directory whose it is, so that it can be cleared when that process is gone."""
    fresh = directory / f"{OWNER}.{os.getpid()}"
    fresh.write_text(json.dumps(asdict(process)))
    fresh.replace(directory / OWNER)


def owner_of(directory: Path) -> Identity | None:
    """The process that a directory belongs to; None when it is being made, or is none of ours."""
    try:
        return Identity(**json.loads((directory / OWNER).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def owner_is_gone(directory: Path) -> bool:
    """Whether the process that a directory belongs to is surely gone."""
    owner = owner_of(directory)
    return owner is not None and owner.is_gone


def move(link: Path, target: Path) -> None:
    """Make ``link`` a symbolic link to ``target`` without a moment in which it does not exist."""
    fresh = link.with_name(link.name + "~")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
