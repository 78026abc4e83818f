"""The examples of conftest_examples/, run as they are: pytest in their directory, as a newcomer would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import without_others

EXAMPLES = Path(__file__).parents[2] / "conftest_examples"


@pytest.fixture
def empty_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is cached: each example builds its base."""
    monkeypatch.setenv("LAKEBRANCH_HOME", str(tmp_path / "home"))


def outcomes(example: str, *options: str, plugins: tuple[str, ...] = ()) -> dict[str, int]:
    """How many tests of an example passed, failed and so on; its output is shown if a test of ours fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *without_others(*plugins), *options]
    run = subprocess.run(command, cwd=EXAMPLES / example, capture_output=True, text=True, timeout=300, check=False)
    print(run.stdout, run.stderr)
    return pytest.RunResult.parse_summary_nouns(run.stdout.splitlines())


@pytest.mark.usefixtures("empty_home")
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.soak), "2"])
def test_quickstart(workers: str) -> None:
    """The smallest example passes without and with workers."""
    assert outcomes("quickstart", "-n", workers) == {"passed": 5}


@pytest.mark.slow
@pytest.mark.usefixtures("empty_home")
@pytest.mark.parametrize("seed", ["1", *(pytest.param(str(seed), marks=pytest.mark.soak) for seed in range(2, 11))])
def test_inventory(seed: str) -> None:
    """The stock application passes with two workers, in an order that the seed decides."""
    assert outcomes("inventory", "-n", "2", f"--randomly-seed={seed}", plugins=("randomly",)) == {"passed": 80}


@pytest.mark.parametrize(
    ("example", "passed"),
    [("django_shop", 13), ("fastapi_orders", 10), ("asyncpg_library", 8), ("psycopg_bank", 7), ("alembic_blog", 4)],
)
def test_frameworks(example: str, passed: int) -> None:
    """An application with its framework passes with two workers, and takes at most ten lines in conftest.py."""
    for file in (EXAMPLES / example).rglob("conftest.py"):
        assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 10
    assert outcomes(example, "-n", "2", plugins=("asyncio", "django", "anyio"))["passed"] == passed
