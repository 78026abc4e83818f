"""The wheel that users get, in an environment of its own, in a directory that knows nothing of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = {
    "pyproject.toml": '[tool.pytest.ini_options]\nlakebranch_base = ["sql:schema.sql"]\n',
    "schema.sql": "CREATE TABLE item (id int PRIMARY KEY);\n",
    "test_items.py": """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_each_begins_empty(lakebranch_conn, number):
    assert lakebranch_conn.execute("SELECT count(*) FROM item").fetchone() == (0,)
    lakebranch_conn.execute("INSERT INTO item VALUES (1)")
    lakebranch_conn.commit()

@pytest.mark.destructive
def test_destruction(lakebranch_conn):
    lakebranch_conn.execute("DROP TABLE item")
    lakebranch_conn.commit()
""",
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a clean environment; return what it printed; fail with it when it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_works_where_it_is_installed(tmp_path: Path) -> None:
    """Build the wheel, install it with its extras in a fresh environment, run a suite with it with two workers."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", f"{wheel}[embedded,xdist]", cwd=tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    for name, text in SUITE.items():
        (project / name).write_text(text)
    printed = run(python, "-m", "pytest", "-n", "2", cwd=project)
    assert "5 passed" in printed
    assert "leases of tests: 5" in printed
    printed = run(tmp_path / "venv" / "bin" / "lakebranch", "--version", cwd=project)
    assert printed.startswith("pytest-lakebranch ")
