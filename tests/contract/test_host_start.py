"""A host on its way: who started it may be gone before it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pytest_lakebranch.config import resolve
from pytest_lakebranch.host.client import environment
from pytest_lakebranch.host.run_directory import RunDirectory
from pytest_lakebranch.processes import Identity
from pytest_lakebranch.state import State


def test_a_host_that_waits_for_a_cloud_ends_with_its_controller(quick_path: Path) -> None:
    """It has made nothing yet, and leaves nothing, however long the cloud takes to answer."""
    options = {"provider": "lakebase", "source": "projects/demo", "home": str(quick_path)}
    settings = resolve(options=options, environ={}, ini={}, root=quick_path)
    directory = RunDirectory.of(State.at(str(quick_path)).ensure(), "0123456789abcdef")
    directory.ensure(Identity.of(os.getpid()))
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as controller,
    ):
        directory.write_order(settings, Identity.of(controller.pid), 1)
        login = {"DATABRICKS_HOST": f"http://127.0.0.1:{mute.getsockname()[1]}", "DATABRICKS_TOKEN": "dapi-x"}
        command = [sys.executable, "-P", "-m", "pytest_lakebranch.host", str(directory.path)]
        with subprocess.Popen(command, env={**environment(), **login}, stdout=subprocess.PIPE) as host:
            mute.settimeout(60)
            with mute.accept()[0]:  # it asks who we are
                controller.kill()
                assert host.communicate(timeout=60)[0] == b""
    assert not directory.path.exists()
    assert not directory.sockets.exists()
