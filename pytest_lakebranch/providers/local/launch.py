"""How programs of PostgreSQL are started: as an unprivileged user, tied to our life, from one long-lived thread."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.processes import LINUX, environment_without_pg
from pytest_lakebranch.servant import become_servant, has_namespaces, lack_of_namespaces, own_namespace, servant, works

P = ParamSpec("P")
T = TypeVar("T")

CHECK_PARENT = '[ "$PPID" = "$1" ] && shift && exec "$@"'
MOUNT_OVERLAY = '[ "$PPID" = "$1" ] && cd "$2" && mount -t overlay -o "$3" overlay merged && shift 3 && exec "$@"'


@dataclass(frozen=True, slots=True)
class Machine:
    """What this machine allows: found by trying, once for each provider.

    ``unprivileged`` goes before every program of PostgreSQL. ``dies_with_us`` goes before servers: the signal is
    the system's own act, so that it comes also when we are killed with -9.
    """

    unprivileged: tuple[str, ...]
    dies_with_us: tuple[str, ...]
    own_ipc: bool
    namespaces: bool


@dataclass(frozen=True, slots=True)
class Overlay:
    """An overlay file system to mount on ``directory``/merged before a server starts in it.

    Paths in ``options`` are relative to ``directory``: no character of the state directory's path gets into them.
    """

    directory: Path
    options: str


def inspect() -> Machine:
    """Try what :class:`Machine` describes; raises MachineError for root that cannot give servers another uid."""
    namespaces = has_namespaces()
    if servant() is not None and not works(become_servant(), "true"):
        raise MachineError(
            f"PostgreSQL refuses to run as root, and {lack_of_namespaces()}, where the server would have another uid "
            f"(tried: {' '.join(own_namespace())} true); nor can it have one outright (tried: "
            f"{' '.join(become_servant())} true). Run pytest as an ordinary user, or allow user namespaces "
            "(Docker: --security-opt seccomp=unconfined; Linux: sysctl user.max_user_namespaces), or install setpriv "
            "(util-linux)."
        )
    deathsig = ("setpriv", "--pdeathsig", "QUIT")
    has_deathsig = LINUX and shutil.which("setpriv") is not None and works(deathsig, "true")
    prefix = own_namespace() if namespaces else become_servant() if servant() is not None else ()
    return Machine(prefix, deathsig if has_deathsig else (), own_ipc=namespaces, namespaces=namespaces)


LOGINS = ("DATABRICKS_", "ARM_", "AZURE_", "GOOGLE_", "ACTIONS_ID_TOKEN_REQUEST_")
"""How the variables begin that logins to Databricks are made from, by its SDK and by the libraries under it."""


def environment() -> dict[str, str]:
    """What PostgreSQL's programs see: our environment without ``PG*`` and ``LC_*``, which would change how they behave
    or speak from machine to machine, and without :data:`LOGINS`: who runs SQL as a superuser could read them. Other
    secrets that may be in it are not kept from servers.
    """
    kept = {name: value for name, value in environment_without_pg().items() if not name.startswith(("LC_", *LOGINS))}
    kept.pop("NOTIFY_SOCKET", None)
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


class Launcher:
    """Starts all programs from one thread, which lives until :meth:`close`.

    The parent-death signal is sent when the *thread* that started a process ends (prctl(2), PR_SET_PDEATHSIG).
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lakebranch-launcher")

    def server(self, command: Sequence[str], *, overlay: Overlay | None, log: Path) -> subprocess.Popen[bytes]:
        """Start a server that dies when we die, in a process group of its own; its output goes to ``log``."""
        return self._in_thread(_popen, self._server_command(command, overlay), log, subprocess.DEVNULL)

    def run(self, command: Sequence[str], *, log: Path, told: str = "") -> int:
        """Run a program to its end, with ``told`` as its input; its exit status. Others may run at the same time."""
        process = self._in_thread(_popen, self._server_command(command, None), log, subprocess.PIPE)
        process.communicate(told.encode())
        return process.returncode

    def close(self) -> None:
        """End the thread. Servers that still run end with it."""
        self._thread.shutdown()

    def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return self._thread.submit(function, *args, **kwargs).result()

    def _server_command(self, command: Sequence[str], overlay: Overlay | None) -> list[str]:
        inside = [*self.machine.unprivileged, *command]
        if overlay is not None:
            arguments = [str(os.getpid()), str(overlay.directory), overlay.options, *inside]
            return [*self.machine.dies_with_us, *IN_MOUNT_NAMESPACE, "sh", "-c", MOUNT_OVERLAY, "sh", *arguments]
        if not self.machine.dies_with_us:
            return inside
        if not self.machine.namespaces and self.machine.unprivileged:  # who takes another uid loses the signal
            inside = [*self.machine.unprivileged, *self.machine.dies_with_us, *command]
            return ["sh", "-c", CHECK_PARENT, "sh", str(os.getpid()), *inside]
        # Between our death and the request for its signal nobody would tell the server: hence the look at PPID.
        return [*self.machine.dies_with_us, "sh", "-c", CHECK_PARENT, "sh", str(os.getpid()), *inside]


IN_MOUNT_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def _popen(command: Sequence[str], log: Path, stdin: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=environment(),
            process_group=0,  # but in our session: whoever is stopped when we die goes on, and meets its signal
        )
