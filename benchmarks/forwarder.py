"""What the forwarder adds to a round trip: by a port locally, on Lakebase, and by a port there, which is two hops.

As in a run, the client, the forwarder and the service are processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.measure import Figure, median, provider, workplace
from pytest_lakebranch.config import resolve
from pytest_lakebranch.emulator.emulator import PROJECT
from pytest_lakebranch.model import Endpoint
from pytest_lakebranch.postgres.connect import conninfo, loopback_url
from pytest_lakebranch.postgres.port import Port
from pytest_lakebranch.providers.lakebase.compute import LakebaseCompute
from pytest_lakebranch.providers.lakebase.project import open_project
from pytest_lakebranch.providers.lakebase.provider import LakebaseProvider
from pytest_lakebranch.waiting import Deadline

ROUNDS, QUERIES = 7, 2000
TARGET = 0.2
CLIENT = f"""
import sys, time, psycopg
with psycopg.connect(sys.stdin.read(), autocommit=True) as connection:
    began = time.perf_counter()
    for _ in range({QUERIES}):
        connection.execute("select 1")
    print((time.perf_counter() - began) * 1e3 / {QUERIES})
"""
SERVE = "from pytest_lakebranch.cli import main; raise SystemExit(main())"


def figures() -> Iterator[Figure]:
    """Each against a client that is connected directly, round by round."""
    with workplace() as home:
        with provider(home, "auto") as local:
            base = local.seal(local.build("base", None), local.root_key)
            yield from by_port(local.start("b", base).endpoint)
        with emulator(home) as environ, branch(home, environ) as compute:
            yield from through_tls(compute)


def by_port(endpoint: Endpoint) -> Iterator[Figure]:
    """One hop, to a server of this machine."""
    with closing(Port(Path(endpoint.host))) as port:
        added = difference(conninfo(endpoint), _url(port, endpoint))
    yield Figure("forwarder: added to a round trip, locally by a port", added, "ms", TARGET)


def through_tls(compute: LakebaseCompute) -> Iterator[Figure]:
    """One hop to an endpoint of Lakebase, and two; the direct client has a token and TLS as well."""
    door = compute.door
    token = door.credential(Deadline(30))
    who = f"user={door.identity} dbname={compute.dbname} password={token}"
    direct = f"host={door.host} port={door.port} sslmode=require {who}"
    yield Figure(
        "forwarder: added to a round trip, on Lakebase", difference(direct, conninfo(compute.endpoint)), "ms", TARGET
    )
    with closing(Port(Path(compute.endpoint.host))) as port:
        added = difference(direct, _url(port, compute.endpoint))
    yield Figure("forwarder: added to a round trip, on Lakebase by a port", added, "ms", 2 * TARGET)


def _url(port: Port, endpoint: Endpoint) -> str:
    return loopback_url(Endpoint("127.0.0.1", port.number, endpoint.user, endpoint.dbname), port.password)


def difference(direct: str, through: str) -> float:
    """Milliseconds that a round trip takes longer."""
    return median([-passes(direct) + passes(through) for _ in range(ROUNDS)])


def passes(where: str) -> float:
    """Milliseconds of a small query, from a client in a process of its own."""
    command = [sys.executable, "-c", CLIENT]
    return float(subprocess.run(command, input=where, capture_output=True, text=True, check=True).stdout)


@contextmanager
def emulator(home: Path) -> Iterator[dict[str, str]]:
    """``lakebranch serve`` until the block ends: the environment that leads to it."""
    directory = home / "served"
    command = [sys.executable, "-c", SERVE, "serve", "--to", str(directory)]
    environ = {**os.environ, "LAKEBRANCH_HOME": str(home)}
    with subprocess.Popen(command, env=environ, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()  # type: ignore[union-attr]  # it serves now
            yield {"DATABRICKS_CONFIG_FILE": f"{directory}/databrickscfg", "DATABRICKS_CONFIG_PROFILE": "emulator"}
        finally:
            process.terminate()


@contextmanager
def branch(home: Path, environ: Mapping[str, str]) -> Iterator[LakebaseCompute]:
    """A branch there, in this process."""
    settings = resolve(options={"provider": "lakebase", "source": f"projects/{PROJECT}"}, environ={}, ini={}, root=home)
    with workplace(Path("/tmp")) as sockets:
        opened = LakebaseProvider(open_project(settings, "bench", environ), locks=home, sockets=sockets)
        try:
            compute = opened.start("b1", opened.cached(opened.root_key))  # type: ignore[arg-type]  # the source is there
            yield compute  # type: ignore[misc]  # it starts no others
        finally:
            opened.close()
