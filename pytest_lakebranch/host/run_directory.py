"""The files of one run: where host and workers find each other, and how others see whether the run lives."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from pytest_lakebranch import cloud_record
from pytest_lakebranch.config import Settings
from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.errors import HostError
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.state import State, make_owned, sockets_root


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's directory in the state directory, and its short twin for sockets."""

    path: Path
    sockets: Path

    @classmethod
    def of(cls, state: State, run: str) -> RunDirectory:
        """Where the run with this id keeps its files; nothing is made yet."""
        return cls(state.runs / run, sockets_root() / f"r{run[:12]}")

    @property
    def socket(self) -> Path:
        """The host's socket."""
        return self.sockets / "host"

    @property
    def ledger(self) -> Path:
        """The host's record."""
        return self.path / "ledger.jsonl"

    @property
    def log(self) -> Path:
        """What the host prints."""
        return self.path / "host.log"

    def ensure(self, maker: Identity) -> RunDirectory:
        """Make both directories, private; they appear with the note that they are dead once ``maker`` is gone."""
        for directory in (self.path, self.sockets):
            make_owned(directory, maker)
        return self

    def write_order(self, settings: Settings, controller: Identity, workers: int) -> None:
        """Leave for the host what it needs to know."""
        order = {"settings": settings.to_json(), "controller": asdict(controller), "workers": workers}
        path = self.path / "run.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({**order, "sockets": str(self.sockets)}))

    def read_order(self) -> dict[str, Any]:
        """What :meth:`write_order` left."""
        stored: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return stored

    def claim(self) -> int:
        """Take the lock that shows that this run lives; it is held as long as the returned descriptor is open.

        The kernel lets go of it when the host ends, however it ends. The lock's file appears locked: whoever looks
        for dead runs never finds it free while its host lives. Raises BlockingIOError when a host serves the run, and
        HostError when one did and has ended.
        """
        fresh = self.path / f"alive.{os.getpid()}"
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.link(fresh, self.path / "alive.lock")
        except FileExistsError:
            os.close(descriptor)
            self._refuse_second_host()
        finally:
            fresh.unlink()
        return descriptor

    @property
    def is_claimed(self) -> bool:
        """Whether a host has served this run, or does."""
        return (self.path / "alive.lock").exists()

    def _refuse_second_host(self) -> NoReturn:
        with (self.path / "alive.lock").open() as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        raise HostError(
            "the host of this run has ended before the run did (was it killed?), and all branches with it. "
            "Start the run again."
        )

    def note_failure(self, answer: bytes) -> None:
        """Leave for the other workers why the host could not start."""
        (self.path / "failure.json").write_bytes(answer)

    def failure(self) -> bytes | None:
        """What :meth:`note_failure` left."""
        try:
            return (self.path / "failure.json").read_bytes()
        except FileNotFoundError:
            return None

    def remove(self) -> None:
        """Delete both directories; what is gone already is fine. With branches in a cloud that are not, the record of
        them stays, for the reaper.
        """
        remove_tree(self.sockets)
        if cloud_record.read(self.path) is None:
            remove_tree(self.path)
