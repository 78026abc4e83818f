"""``make matrix``: the example suites on every storage rung, with 0, 2 and 8 workers, as root and as an ordinary user.

Needs root, mkfs.btrfs, mkfs.xfs and loop devices; fails when a combination could not be run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUITES = ("conftest_examples/quickstart", "conftest_examples/inventory")
RUNGS = ("snapshot", "overlay", "reflink", "copy")
VOLUMES = {"snapshot": "btrfs", "reflink": "xfs"}
WORKERS = (0, 2, 8)
NOBODY = 65534


@dataclass(frozen=True)
class User:
    """Who runs the tests: the command that becomes this user, and an interpreter that this user may run."""

    name: str
    uid: int
    become: tuple[str, ...]
    python: Path
    project: Path


def run(*command: str | Path, **kwargs: object) -> None:
    """Run a command that must succeed."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True, **kwargs)  # type: ignore[call-overload]


@contextmanager
def volume(directory: Path, kind: str) -> Iterator[Path]:
    """A loop-mounted file system of this kind that everybody may write to."""
    image, mount = directory / f"{kind}.img", directory / kind
    run("truncate", "-s", "4G", image)
    run(f"mkfs.{kind}", "-q", image)
    mount.mkdir()
    run("mount", "-o", "loop", image, mount)
    try:
        mount.chmod(0o1777)
        yield mount
    finally:
        run("umount", "--lazy", mount)  # after Ctrl-C, what a combination started may still be ending
        image.unlink()


def ordinary_user(directory: Path) -> User:
    """nobody, with a copy of the project and an environment that it can read."""
    project = directory / "project"
    project.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", project], input=archive, check=True)
    python = next(path for path in (Path("/usr/bin/python3"), Path(sys.executable)) if path.exists())
    run(python, "-m", "venv", directory / "venv")
    run(directory / "venv/bin/python", "-m", "pip", "install", "-q", f"{project}[dev]")
    run("chmod", "-R", "a+rX", directory)
    become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return User("ordinary", NOBODY, become, directory / "venv/bin/python", project)


def combination(user: User, rung: str, workers: int, home: Path) -> str:
    """Run the suites once; return what happened: ``passed`` or the end of the output."""
    home.mkdir(mode=0o700)
    os.chown(home, user.uid, user.uid)
    environment = {
        "PATH": os.environ["PATH"],
        "LAKEBRANCH_HOME": str(home),
        "LAKEBRANCH_STORAGE": rung,
        "LANG": "C.UTF-8",
    }
    for suite in SUITES:
        command = [*user.become, str(user.python), "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly"]
        command += ["-p", "no:django", "-p", "no:asyncio", "-n", str(workers), "-q", str(user.project / suite)]
        done = subprocess.run(command, cwd=user.project, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 or "skipped" in done.stdout:
            return done.stdout[-3000:] + done.stderr[-1000:]
    shutil.rmtree(home)
    return "passed"


def main() -> int:
    """Run all combinations, or those of the users and rungs that are named; the exit code says whether all passed."""
    failed, only = 0, set(sys.argv[1:])
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbm")))
        directory.chmod(0o755)
        homes = dict.fromkeys(RUNGS, directory)
        homes |= {rung: stack.enter_context(volume(directory, kind)) for rung, kind in VOLUMES.items()}
        (directory / "homes").mkdir(mode=0o777)
        users = [User("root", 0, (), Path(sys.executable), ROOT), ordinary_user(directory)]
        chosen = [one for one in product(users, RUNGS, WORKERS) if not only or {one[0].name, one[1]} <= only]
        for number, (user, rung, workers) in enumerate(chosen):
            began = time.monotonic()
            outcome = combination(user, rung, workers, homes[rung] / f"h{number}")
            failed += outcome != "passed"
            print(f"{user.name:9} {rung:9} -n {workers}  {time.monotonic() - began:6.1f} s  {outcome}", flush=True)
    print(f"{len(chosen) - failed} of {len(chosen)} combinations passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
