"""``lakebranch serve``: what it leaves for clients, how it ends, and what it says of mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from pytest_lakebranch.cli import child
from tests.plugin.cli_rigs import Command, wait_until

LAKEBRANCH = [sys.executable, "-c", "import sys; from pytest_lakebranch.cli import main; sys.exit(main())"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a state directory of its own, so that what is left can be seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path / "home"))
    return tmp_path


def started(*words: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """The command, running, and what it said of itself."""
    process = subprocess.Popen([*LAKEBRANCH, "serve", "--json", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    while not said.endswith("}\n"):
        line = process.stdout.readline()
        assert line, said
        said += line
    return process, json.loads(said)


def test_it_serves_until_it_is_told_to_end(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Profiles that work, readable by their owner only; the port is taken meanwhile; SIGTERM leaves no branch."""
    process, said = started("--to", "client")
    try:
        assert said["profiles"] == ["emulator", "emulator-m2m", "emulator-viewer"]
        config = Path(said["config"])
        assert (config.stat().st_mode & 0o777, config.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert Path(said["ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
        profiles = ConfigParser()
        profiles.read(config)
        headers = {"Authorization": f"Bearer {profiles['emulator']['token']}"}
        answer = httpx.get(f"{profiles['emulator']['host']}/api/2.0/postgres/{said['project']}", headers=headers)
        assert answer.json()["name"] == "projects/demo"
        assert profiles["emulator"]["token"] not in " ".join(
            Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        )
        port = said["url"].rpartition(":")[2]
        refused = Command(capfd)("serve", "--port", port, "--", "true")
        assert refused.code == 1
        assert f"port {port} on 127.0.0.1 cannot be listened on" in refused.err
        assert "Traceback" not in refused.err
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert list((here / "home" / "runs").iterdir()) == []


def test_a_command_has_the_environment_of_a_client(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the emulator only, whatever was set outside, and its exit code is the command's."""
    monkeypatch.setenv("DATABRICKS_CONFIG_PROFILE", "production")
    monkeypatch.setenv("NO_PROXY", "intranet")
    tell = "import os, json, sys; json.dump(dict(os.environ), open('env.json', 'w')); sys.exit(7)"
    words = ["serve", "--auth", "m2m", "--endpoint-port", "15432", "--", sys.executable, "-c", tell]
    done = subprocess.run([*LAKEBRANCH, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    seen = json.loads((here / "env.json").read_text())
    ours = {name for name in seen if name.startswith("DATABRICKS_")}
    assert ours == {"DATABRICKS_HOST", "DATABRICKS_CLIENT_ID", "DATABRICKS_CLIENT_SECRET"}
    assert (seen["NO_PROXY"], seen["PGPORT"]) == ("intranet,127.0.0.1,localhost", "15432")
    assert seen["DATABRICKS_CLIENT_SECRET"] not in done.stdout + done.stderr
    assert list((here / "home" / "runs").iterdir()) == []


MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "port": (["--port", "x"], 2, "not a port number"),
    "latency": (["--latency", "create_branch"], 2, "NAME=VALUE"),
    "latency of nothing": (["--latency", "paint=1"], 2, "no latency of 'paint'"),
    "distribution": (["--latency", "login=often"], 2, "none of SECONDS"),
    "limit": (["--limit", "computes=1"], 2, "known are active_computes"),
    "fault": (["--fault", "{"], 2, "it is no JSON"),
    "kind": (["--fault", '{"kind": "rain"}'], 2, "must be one of status, drop"),
    "project": (["--project", "Shop"], 2, "must match pattern"),
    "base": (["--base", "sql:none.sql"], 2, "none.sql"),
    "address": (["--endpoint-address", "10.0.0.1"], 2, "no loopback address"),
    "directory": (["--to", "file/inside"], 1, "file"),
    "command": ([], 2, "there is no command"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One message each, and nothing is left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    words, code, message = MISTAKES[case]
    said = Command(capfd)("serve", *words, "--", "no-such-command")
    assert (said.code, message in said.err) == (code, True), said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "file" / "inside").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


TRAPPED = """
import pathlib, signal, sys

def end(*_):
    pathlib.Path("interrupted").touch()
    sys.exit(5)

signal.signal(signal.SIGINT, end)
pathlib.Path("ready").touch()
signal.pause()
"""


@pytest.mark.soak
def test_an_interrupt_is_for_the_command(here: Path) -> None:
    """Ctrl-C reaches command and emulator; the command decides, and its exit code is the whole's."""
    words = [*LAKEBRANCH, "serve", "--", sys.executable, "-c", TRAPPED]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until((here / "ready").exists)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 5
    assert (here / "interrupted").exists()
    assert list((here / "home" / "runs").iterdir()) == []


def test_the_exit_code_of_a_signal() -> None:
    """A program that a signal ended has the exit code that a shell would give it."""
    assert child.exit_code(["sh", "-c", "kill -TERM $$"], os.environ) == 128 + signal.SIGTERM
    assert child.exit_code(["sh", "-c", "exit 3"], os.environ) == 3
