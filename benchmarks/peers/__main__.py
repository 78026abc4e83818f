"""``python -m benchmarks.peers [--case NAME]… [--peer NAME]… [--workers N]…``: measure, and renew table and plot.

Cells that were measured before are kept, so that a long table can be made in slices. The peers come from the package
registry into an environment of their own, beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ROOT, provider, workplace
from benchmarks.peers import report
from benchmarks.peers.cases import CASES, Case
from benchmarks.peers.contestants import CONTESTANTS, Contestant
from pytest_lakebranch.postgres import binaries
from pytest_lakebranch.postgres.connect import connect, conninfo
from pytest_lakebranch.providers.local.compute import LocalCompute

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PEERS = ("pytest", "pytest-xdist", "psycopg[binary]", "pytest-postgresql", "pgmem", "pytest-django", "django")
LIMIT = 300
"""Seconds for one run of pytest; the longest (pytest-postgresql, 2 GB, two workers) should take half of it."""
END_SECONDS = 30
"""Seconds in which a run that took too long may stop its servers."""
USER = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
"""What makes an ordinary user of root: PostgreSQL refuses to serve root, and not every peer sees to that."""


WHY_LENGTH = 300
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""With that variable every process of a run would compile all plugins anew."""


@dataclass(frozen=True)
class Bench:
    """Where to measure: the peers' Python, a directory, a running server."""

    python: str
    here: Path
    floor: LocalCompute


def main() -> int:
    """Measure what was asked for."""
    chosen = _arguments()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    python = _environment()
    for name in chosen.case or CASES:
        with workplace() as here, _server(CASES[name], here) as floor:
            for peer in chosen.peer or CONTESTANTS:
                for workers in chosen.workers or (0, 2):
                    cell = _cell(name, peer, workers, Bench(python, here, floor))
                    results[f"{name} {peer} {workers}"] = cell
                    print(f"{name:14} {peer:26} -n {workers}  {cell}", flush=True)
                    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    report.write(results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.peers", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--peer", action="append", choices=CONTESTANTS)
    parser.add_argument("--workers", action="append", type=int)
    return parser.parse_args()


def _environment() -> str:
    """The Python of an environment with all peers, and with us."""
    python = HERE / ".venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True, env=ENVIRONMENT)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *PEERS, "--editable", f"{ROOT}[embedded,xdist]"], check=True, env=ENVIRONMENT)
    return str(python)


@contextmanager
def _server(case: Case, here: Path) -> Iterator[LocalCompute]:
    """A running server with the case's base, for those who bring none; of the same programs, and without fsync too."""
    with provider(here / "server", "auto") as made:
        compute = made.build("floor", None)
        with connect(compute.endpoint, autocommit=True) as session:
            session.execute(case.schema)
            session.execute("VACUUM ANALYZE")
        yield compute  # type: ignore[misc]
        compute.discard()


def _cell(name: str, peer: str, workers: int, bench: Bench) -> dict[str, object]:
    """One cell of the table: median milliseconds per test, set-up and tear-down included; seconds of the whole run."""
    case, contestant = CASES[name], CONTESTANTS[peer]
    if name in contestant.cannot:
        return {"cannot": contestant.cannot[name]}
    tests = contestant.slow.get(name, case.tests) * max(1, workers)
    with workplace(bench.here) as project:
        for path, content in contestant.files(case, tests, str(binaries.find("auto").directory)).items():
            (project / path).parent.mkdir(exist_ok=True)
            (project / path).write_text(content)
        try:
            if peer.startswith("lakebranch"):  # the base is built once per machine, and the table shows later runs
                _run(contestant, ("-k", "0]"), project, bench)
            seconds = _run(contestant, ("-n", str(workers)), project, bench)
        except subprocess.TimeoutExpired:
            return {"cannot": f"not done after {LIMIT} s"}
        except subprocess.CalledProcessError as error:
            return {"cannot": f"failed: {_why(error.output)}"}
        times = [[float(line) for line in path.read_text().split()] for path in project.glob("times.*")]
    each = [took for worker in times for took in worker[1:]]  # the first also sets up the session
    return {"ms": round(statistics.median(each), 2), "seconds": round(seconds, 2), "tests": tests}


def _run(contestant: Contestant, words: tuple[str, ...], project: Path, bench: Bench) -> float:
    """Run pytest with the plugins of one contestant only; seconds."""
    for old in project.glob("times.*"):
        old.unlink()
    plugins = ("xdist", "stopwatch", *contestant.plugins)
    options = [option for option in contestant.options if option.startswith("--")]
    command = [bench.python, "-m", "pytest", "-q", *(f"-p{name}" for name in plugins), *options, *words]
    command.append(f"--basetemp={project / 'tmp'}")
    if contestant.ordinary_user and os.geteuid() == 0:
        command = [*USER, *command]
    environment = {
        **ENVIRONMENT,
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(HERE),
        "STOPWATCH": str(project / "times"),
        "FLOOR": conninfo(bench.floor.endpoint),
        "FLOOR_HOST": bench.floor.endpoint.host,
        "LAKEBRANCH_HOME": str(project.parent / "home"),
    }
    if "copy" in contestant.options:
        environment["LAKEBRANCH_STORAGE"] = "copy"
    began = time.perf_counter()
    _run_to_end(command, project, environment)
    return time.perf_counter() - began


def _run_to_end(command: list[str], project: Path, environment: dict[str, str]) -> None:
    """Raises TimeoutExpired, or CalledProcessError with what pytest said; servers are stopped in either case."""
    output = project / "output"
    with output.open("w") as stream:
        run = subprocess.Popen(
            command, cwd=project, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            run.wait(LIMIT)
        except subprocess.TimeoutExpired:
            _end(run)
            raise
    if run.returncode:
        raise subprocess.CalledProcessError(run.returncode, command, output.read_text())


def _end(run: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does it, so that servers go too; and by force if that takes too long."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(run.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(END_SECONDS)
            return


def _why(said: str) -> str:
    """What pytest calls the error, in one line."""
    lines = [line for line in said.splitlines() if line.startswith(("E  ", "ERROR", "FAILED"))]
    return " ".join(" ".join(lines or said.splitlines()[-3:]).split())[:WHY_LENGTH]


if __name__ == "__main__":
    sys.exit(main())
