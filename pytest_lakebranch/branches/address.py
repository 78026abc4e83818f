"""A constant place to connect to, whatever compute is behind it at the moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.state import move


class Address:
    """A symbolic link that leads to the socket directory of a compute.

    The kernel follows it when a client connects, so a client needs no notice when it moves, and connections that
    are open stay where they are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def lead_first_to(self, endpoint: Endpoint) -> None:
        """Lead to ``endpoint``: for an address that was never used."""
        self._path.symlink_to(endpoint.host)

    def lead_to(self, endpoint: Endpoint) -> None:
        """Lead to ``endpoint`` from now on, atomically."""
        move(self._path, Path(endpoint.host))

    def seen(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint as reached through this address."""
        return replace(endpoint, host=str(self._path))

    def remove(self) -> None:
        """Lead nowhere: whoever connects from now on is refused by the kernel. Idempotent."""
        self._path.unlink(missing_ok=True)
