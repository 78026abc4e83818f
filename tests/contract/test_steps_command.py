"""What ``command:`` steps do with the environment, with what a program says, and with declared files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from step_servers import rows

from pytest_lakebranch.errors import BaseError
from pytest_lakebranch.providers.local.processes import is_running
from pytest_lakebranch.steps.base import Step, Workplace
from pytest_lakebranch.steps.files import Application
from pytest_lakebranch.steps.kinds import parse
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["step_fixtures"]


@pytest.fixture
def place(embedded_server: object, tmp_path: Path) -> Workplace:
    """A fresh database."""
    made: Workplace = embedded_server.place(tmp_path)  # type: ignore[attr-defined]
    return made


def script(place: Workplace, text: str) -> Step:
    """The step for a shell script with this text."""
    file = place.root / "migrate.sh"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    told = Application("postgres", "app", lambda endpoint: {"SHOP_DSN": f"host={endpoint.host} user={endpoint.user}"})
    return parse("command:./migrate.sh one 'two words' inputs=migrate.sh", root=place.root, application=told)


def test_environment(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL is in DATABASE_URL, in the project's own variables and in libpq's; no other PG* is there."""
    names = ("PGSERVICE", "PGOPTIONS", "PGPASSWORD")
    for name in names:
        monkeypatch.setenv(name, "elsewhere")
    script(
        place,
        "psql -qc 'CREATE TABLE via_pg ()'; psql -qc 'CREATE TABLE via_url ()' $DATABASE_URL; env > env; "
        "echo $1/$2 > words",
    ).apply(place)
    for name in names:
        monkeypatch.delenv(name)
    assert len(rows(place, "SELECT FROM pg_class WHERE relname ~ '^via'")) == 2
    environ = dict(line.split("=", 1) for line in (place.root / "env").read_text().splitlines() if "=" in line)
    assert environ["SHOP_DSN"] == f"host={place.endpoint.host} user=postgres"
    assert {name for name in environ if name.startswith("PG")} == {"PGHOST", "PGPORT", "PGUSER", "PGDATABASE"}
    assert (place.root / "words").read_text() == "one/two words\n"


def test_last_lines_without_secrets(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails is shown by its last lines, with passwords, tokens and keys masked."""
    monkeypatch.setenv("SHOP_TOKEN", "tok-12345")
    text = 'seq 100; echo "postgresql://me:pa55word@db/shop token $SHOP_TOKEN password=hunter2"; exit 3'
    with pytest.raises(BaseError) as caught:
        script(place, text).apply(place)
    message = str(caught.value)
    assert "failed with status 3 (the last 20 of 101 lines):\n    82\n" in message
    assert message.endswith("postgresql://me:***@db/shop token *** password=***")


def test_silent_failure_and_signal(place: Workplace) -> None:
    """Also a command that says nothing, or is killed, is told how it ended."""
    with pytest.raises(BaseError, match="failed with status 7:\n    it said nothing"):
        script(place, "exit 7").apply(place)
    with pytest.raises(BaseError, match=f"failed with signal {signal.SIGKILL:d}:"):
        script(place, "kill -9 $$").apply(place)


RUNNING = """
import os, sys
from pathlib import Path
from pytest_lakebranch.steps.programs import execute

execute(["sh", "-c", "sleep 60 & echo $! > pid; wait"], cwd=Path(sys.argv[1]), environ=dict(os.environ))
"""


def test_killed_worker(tmp_path: Path) -> None:
    """A worker that is killed takes the program along, with what that has started."""
    with subprocess.Popen([sys.executable, "-c", RUNNING, str(tmp_path)]) as worker:
        told = tmp_path / "pid"
        words = poll(lambda: told.read_text() or None if told.exists() else None, deadline=Deadline(30))
        worker.kill()
    assert poll(lambda: None if is_running(int(words or 0)) else True, deadline=Deadline(10))


def test_missing_extension_is_explained(place: Workplace) -> None:
    """What the server lacks is named, with where it can be had."""
    with pytest.raises(BaseError, match="has no extension postgis"):
        script(place, "psql -v ON_ERROR_STOP=1 -c 'CREATE EXTENSION postgis'").apply(place)


def test_declared_files_decide(place: Workplace) -> None:
    """The script itself and files named by inputs= are part of the fingerprint."""
    (place.root / "migrations").mkdir()
    (place.root / "migrations" / "1.sql").write_text("SELECT 1;")
    script(place, "exit 0")
    step = parse("command:sh migrate.sh inputs=migrations/**", root=place.root)
    before = step.fingerprint()
    (place.root / "migrations" / "2.sql").write_text("SELECT 2;")
    after = step.fingerprint()
    script(place, "exit 1")
    assert len({before, after, step.fingerprint()}) == 3
