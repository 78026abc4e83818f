"""Lakebase on the emulator: what workers wait for branches, and the calls of a branch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, provider, workplace
from pytest_lakebranch.branches.base import Plan
from pytest_lakebranch.branches.engine import Engine, running
from pytest_lakebranch.branches.lease import Request
from pytest_lakebranch.config import resolve
from pytest_lakebranch.emulator.emulator import PROJECT, Emulator, Options
from pytest_lakebranch.emulator.handover import credentials
from pytest_lakebranch.emulator.listening import served
from pytest_lakebranch.emulator.oidc import NAMES as SIGN_IN
from pytest_lakebranch.ledger import Ledger
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.lakebase.project import open_project
from pytest_lakebranch.providers.lakebase.provider import LakebaseProvider

CREATE, LOGIN = 1.0, 0.8
WORKERS, TESTS, SECONDS = 4, 200, 0.05
WRITES = frozenset({0, 2})  # of every five tests: 40 %


def figures() -> Iterator[Figure]:
    """A suite on a slow service, and the same one only reading."""
    with workplace() as home, provider(home, "auto") as local:
        base = local.seal(local.build("base", None), local.root_key)
        latencies = {"create_branch": str(CREATE), "login": str(LOGIN)}
        with Emulator(local, base, Options(latencies=latencies)) as emulator:
            emulator.set_up()
            with served(emulator) as url:
                yield from suite(emulator, url, home)


def suite(emulator: Emulator, url: str, home: Path) -> Iterator[Figure]:
    """Tests of which some write, in workers that each run theirs one after another."""
    wait, writes, calls, made = run(emulator, url, home, writing=WRITES)
    apart = writes * (CREATE + LOGIN)
    yield Figure("lakebase: waiting, as part of one branch after another", wait / apart, "", 0.35)
    yield Figure("lakebase: API calls for each branch", calls / made, "", 6.0)
    wait, _, _, made = run(emulator, url, home, writing=frozenset())
    yield Figure("lakebase: branches of a suite that only reads, per worker", made / WORKERS, "", 1.0)


def run(emulator: Emulator, url: str, home: Path, *, writing: frozenset[int]) -> tuple[float, int, int, int]:
    """Seconds waited by all workers, writing tests, API calls, branches made."""
    settings = resolve(options={"provider": "lakebase", "source": f"projects/{PROJECT}"}, environ={}, ini={}, root=home)
    environ = {"DATABRICKS_HOST": url, "DATABRICKS_TOKEN": credentials(emulator.options.identities[0])["token"]}
    emulator.application.served.clear()
    with workplace(Path("/tmp")) as sockets:
        opened = LakebaseProvider(open_project(settings, str(time.time()), environ), locks=home, sockets=sockets)
        with running(Engine(opened, Ledger(home / "ledger"), addresses=sockets, workers=WORKERS)) as engine:
            waited, writes = work(engine, writing)
        assert engine.summary().left_behind == ()
    calls = [each.route for each in emulator.application.served if each.route not in SIGN_IN]
    return waited, writes, len(calls), calls.count("create_branch")


def work(engine: Engine, writing: frozenset[int]) -> tuple[float, int]:
    """Seconds waited by all workers, and how many tests wrote."""
    plan = Plan((), ())
    engine.bases.request("gw0", plan)
    base, lock, totals = engine.bases.key(plan), threading.Lock(), [0.0, 0]

    def one(worker: str) -> None:
        for number in range(TESTS // WORKERS):
            grant = engine.lease(Request(worker, f"test_{number}", "test", base))
            with connect(grant.endpoint, autocommit=True) as connection:
                if number % 5 in writing:
                    connection.execute("create table written ()")
            time.sleep(SECONDS)
            engine.release(grant.lease)
            with lock:
                totals[0] += grant.waited
                totals[1] += number % 5 in writing

    threads = [threading.Thread(target=one, args=(f"gw{number}",)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return totals[0], int(totals[1])
