"""A started branch: clone, compute and first connection; by storage rung and by size of the base."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import Figure, median, provider, workplace
from pytest_lakebranch.model import ForkPoint
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.base import Compute
from pytest_lakebranch.providers.local.provider import LocalProvider

ROUNDS = 15
ROWS_PER_MB = 3000  # of the table below, about
FILL = (
    "CREATE TABLE big AS SELECT g AS id, repeat(md5(g::text), 8) AS a, md5(g::text) AS b "
    f"FROM generate_series(1, %s * {ROWS_PER_MB}) g"
)
TARGETS = {"overlay": 50.0, "snapshot": 50.0, "copy": 130.0}


def figures() -> Iterator[Figure]:
    """Each rung on the file system it is for; loop-mounted where this machine's disk is another."""
    with workplace() as here, ExitStack() as stack:
        homes = {"overlay": here / "overlay", "copy": here / "copy"}
        for rung, kind in (("snapshot", "btrfs"), ("reflink", "xfs")):
            homes[rung] = stack.enter_context(mounted(here, kind)) / "home"
        for rung, home in homes.items():
            yield from of_rung(rung, home)


def of_rung(rung: str, home: Path) -> Iterator[Figure]:
    """An empty base, and the ratio of a 2 GB to a 30 MB base where the size is not to matter."""
    with provider(home, rung) as made:
        empty = started(made, base(made, "empty", 0))
        yield Figure(f"{rung}: started branch of an empty base", empty, "ms", TARGETS.get(rung))
        if rung != "copy":
            small, large = (started(made, base(made, str(size), size)) for size in (20, 2000))
            target = 1.3 if rung in ("overlay", "snapshot") else None
            yield Figure(
                f"{rung}: started branch of a 2 GB base ({large:.0f} ms) / of 30 MB ({small:.0f} ms)",
                large / small,
                "x",
                target,
            )


def base(made: LocalProvider, key: str, megabytes: int) -> ForkPoint:
    """A sealed base with a table of about this size."""
    compute = made.build(f"base-{key}", None)
    if megabytes:
        with connect(compute.endpoint, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute(FILL.replace("%s", str(megabytes)))
    return made.seal(compute, key)


def started(made: LocalProvider, at: ForkPoint) -> float:
    """Median time to a branch on which a client has connected; each branch is written to and given back."""
    times = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        compute = connected(made, at, number)
        times.append((time.perf_counter() - began) * 1e3)
        with connect(compute.endpoint) as connection:
            connection.execute("CREATE TABLE written (x int)")
        compute.discard()
    return median(times)


def connected(made: LocalProvider, at: ForkPoint, number: int) -> Compute:
    """A started branch, after a first connection."""
    compute = made.start(f"b{number}", at)
    connect(compute.endpoint).close()
    return compute


class mounted:  # noqa: N801  (used as a function)
    """A loop-mounted file system."""

    def __init__(self, directory: Path, kind: str) -> None:
        self.image, self.mount, self.kind = directory / f"{kind}.img", directory / kind, kind

    def __enter__(self) -> Path:
        self.mount.mkdir()
        subprocess.run(["truncate", "-s", "12G", self.image], check=True)
        subprocess.run([f"mkfs.{self.kind}", "-q", self.image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True)
        return self.mount

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.mount], check=True)
        self.image.unlink()
