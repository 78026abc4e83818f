"""Signing in by what ``databricks-sdk`` knows and we do not: here the Databricks CLI, by which people log in."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from emulator_rigs import Emulated
from lakebase_rigs import cloud

from pytest_lakebranch.emulator.emulator import USER
from pytest_lakebranch.errors import CloudError, ConfigError
from pytest_lakebranch.providers.lakebase.auth import authorization, find
from pytest_lakebranch.providers.lakebase.project import check

pytest_plugins = ["emulator_fixtures"]


def cli(directory: Path, does: str) -> dict[str, str]:
    """What leads to a program in place of the Databricks CLI."""
    program = directory / "databricks"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o700)
    return {"DATABRICKS_TOKEN": "", "DATABRICKS_AUTH_TYPE": "databricks-cli", "DATABRICKS_CLI_PATH": str(program)}


def gives(token: str | None) -> str:
    """What the CLI says when it is asked for a token."""
    said = {"access_token": token, "token_type": "Bearer", "expiry": "2100-01-01T00:00:00Z"}
    return f"cat <<'END'\n{json.dumps(said)}\nEND"


def test_a_method_of_the_sdk(lakebase: Emulated, tmp_path: Path) -> None:
    """Its token is used like any other, and what it needs comes from the environment that was given."""
    login = cli(tmp_path, gives(lakebase.emulator.options.identities[0].token))
    with cloud(lakebase, tmp_path, login=login) as here:
        assert here.provider._project.identity == USER
        assert check(here.settings, {"DATABRICKS_HOST": lakebase.url, **login}).origin == lakebase.url


def test_a_method_that_fails(lakebase: Emulated, tmp_path: Path) -> None:
    """From the start: it is a mistake in the settings. Later: it is the service's refusal. Both in one message."""
    environ = {"DATABRICKS_HOST": lakebase.url, **cli(tmp_path, "echo no such login >&2; exit 1")}
    with pytest.raises(
        ConfigError, match=r"databricks-sdk finds no way to log in: .*DATABRICKS_CONFIG_PROFILE"
    ) as caught:
        authorization(find(environ), None, None)  # type: ignore[arg-type]
    assert "Config:" not in str(caught.value)
    environ |= cli(tmp_path, gives("x").replace("2100", "2000"))
    _, header = authorization(find(environ), None, None)  # type: ignore[arg-type]
    cli(tmp_path, "echo logged out >&2; exit 1")
    with pytest.raises(CloudError, match=r"databricks-sdk cannot sign in: .*logged out") as refused:
        header(False)
    assert not refused.value.passing  # though it is an OSError: what was said will be said again


class Metadata(BaseHTTPRequestHandler):
    """A service that gives tokens which are over at once."""

    def do_GET(self) -> None:
        """A token."""
        body = json.dumps({"access_token": "x", "token_type": "Bearer", "expires_on": 1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_a_method_that_reaches_nobody_may_do_so_later(lakebase: Emulated) -> None:
    """That the service of the SDK's method does not answer any more is no refusal."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environ = {
            "DATABRICKS_HOST": lakebase.url,
            "DATABRICKS_AUTH_TYPE": "metadata-service",
            "DATABRICKS_METADATA_SERVICE_URL": f"http://127.0.0.1:{server.server_port}",
        }
        _, header = authorization(find(environ), None, None)  # type: ignore[arg-type]
        server.shutdown()
    with pytest.raises(CloudError, match="databricks-sdk cannot sign in: ConnectionError") as caught:
        header(False)
    assert caught.value.passing


def test_an_sdk_that_finds_nobody_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own patience is not waited out."""
    monkeypatch.setattr("pytest_lakebranch.providers.lakebase.auth.SDK_SECONDS", 1)
    environ = {"DATABRICKS_HOST": "http://127.0.0.1:1", **cli(tmp_path, "exit 1")}
    with pytest.raises(ConfigError, match="databricks-sdk finds no way to log in"):
        authorization(find(environ), None, None)  # type: ignore[arg-type]
