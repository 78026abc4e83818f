"""The host's listener goes on when the system refuses it a descriptor for a moment."""

from __future__ import annotations

import resource
import socket
import threading
from pathlib import Path
from typing import Any, cast

from pytest_lakebranch.branches.engine import Engine
from pytest_lakebranch.host import wire
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.host.server import Host
from pytest_lakebranch.processes import Identity


def called(address: str) -> dict[str, Any]:
    """What the host answers to a call that it does not know."""
    with socket.socket(socket.AF_UNIX) as line, line.makefile("rwb") as stream:
        line.settimeout(20)
        line.connect(address)
        wire.send(stream, {"call": "nothing", "arguments": {}})
        return wire.receive(stream) or {}


def test_no_descriptors_for_a_moment(tmp_path: Path) -> None:
    """Whoever calls meanwhile is answered afterwards."""
    host = Host(RunDirectory(tmp_path, tmp_path), cast(Engine, None), programs="", controller=Identity(0, "", "", ""))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "host"))
        listener.listen(4)
        resource.setrlimit(resource.RLIMIT_NOFILE, (listener.fileno(), hard))
        try:
            thread = threading.Thread(target=host._accept, args=(listener,), daemon=True)
            thread.start()
            thread.join(0.1)  # a listener that gives up does so at once
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert thread.is_alive()
        assert "error" in called(str(tmp_path / "host"))
