"""Where the local provider runs: rungs that are lacking, odd paths, ordinary users, hosts that die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest
from local_rigs import Rig, Volumes, processes_in, rig, run_sql

import pytest_lakebranch
from pytest_lakebranch.errors import BranchError, LakebranchError, MachineError
from pytest_lakebranch.waiting import Deadline, poll

pytest_plugins = ["local_fixtures"]

MakeRig = Callable[..., AbstractContextManager[Rig]]
NOBODY = 65534


def test_lacking_rung_says_what_would_work(tmp_path: Path) -> None:
    """A forced rung the state directory cannot do: what was tried, the system's answer, and which would work."""
    home = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    place = home / f"lakebranch-test-{os.getpid()}"
    try:
        says = r"'snapshot'.*Tried: .*btrfs.*The system said.*would work: .*copy"
        with pytest.raises(MachineError, match=says), rig(place, storage="snapshot"):
            pass
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("name", ["with space", "co:lon,comma", "quote'\"s", "back\\slash", "ünï"])
def test_odd_state_directory(tmp_path: Path, name: str) -> None:
    """No character of the state directory's path confuses a shell, a mount option or a setting."""
    with rig(tmp_path / name) as made:
        assert run_sql(made.start(at=made.base("create table t (i int)")), "select count(*) from t") == [(0,)]


def test_setting_that_stops_the_server_is_named(local_rig: MakeRig) -> None:
    """A server that refuses the user's setting: its own words, the settings, and nothing left."""
    with local_rig(settings=("shared_buffers=banana",)) as made:
        with pytest.raises(
            LakebranchError, match=r"(?s)FATAL.*shared_buffers.*lakebranch_settings: shared_buffers=banana"
        ):
            made.base()
        assert list((made.run / "building").iterdir()) == []
        assert list(made.sockets.iterdir()) == []


def test_branch_that_cannot_start_leaves_nothing(local_rig: MakeRig) -> None:
    """A branch whose files do not let a server start: its words, and neither process, directory nor socket left."""
    with local_rig(storage="copy") as made:
        at = made.base("create table t (i int)")
        Path(at.location, "global", "pg_control").write_bytes(bytes(8192))
        with pytest.raises(BranchError, match="did not start"):
            made.provider.start("b", at)
        assert list((made.run / "branches").iterdir()) + list(made.sockets.iterdir()) == []
        assert processes_in(made.run) == []
    shutil.rmtree(made.home)


def test_user_settings_win(local_rig: MakeRig) -> None:
    """What the user sets is stronger than what we set, and part of the root key."""
    with local_rig(settings=("work_mem=7MB", "max_connections=33")) as made, rig(made.home) as plain:
        assert made.provider.root_key != plain.provider.root_key
        compute = made.start(at=made.base("create table t (i int)"))
        assert run_sql(compute, "select current_setting('work_mem'), current_setting('max_connections')") == [
            ("7MB", "33")
        ]


def test_unknown_locale(local_rig: MakeRig) -> None:
    """A locale that the machine lacks: which, and how to get it."""
    says = r"lakebranch_locale is 'xx_YY.UTF-8'.*locale-gen"
    with local_rig(locale="xx_YY.UTF-8") as made, pytest.raises(MachineError, match=says):
        made.base()


def test_icu_locale_of_the_embedded_server(local_rig: MakeRig) -> None:
    """The embedded PostgreSQL has no ICU, and the error says which has."""
    says = r"ICU.*lakebranch_postgres"
    with local_rig(locale="icu:de", postgres="embedded") as made, pytest.raises(MachineError, match=says):
        made.base()


def test_database_sorts_by_code_point_and_knows_letters(local: Rig) -> None:
    """The default locale sorts the same on every machine, and upper() knows letters beyond ASCII."""
    row = run_sql(local.start(), "select upper('äé'), 'a' > 'B', current_setting('timezone')")[0]
    assert row[0] == "ÄÉ"
    assert row[1:] in {(True, "UTC"), (True, "Etc/UTC")}


def test_closed_provider_starts_nothing(local_rig: MakeRig) -> None:
    """After close() a branch is refused, and close() may be called again."""
    with local_rig() as made:
        at = made.base("create table t (i int)")
        made.start(at=at)
        made.provider.close()
        made.provider.close()
        with pytest.raises(LakebranchError):
            made.provider.start("late", at)


RUN = """
import sys, os, time, json
sys.path[:0] = json.loads(sys.argv[2])
from pathlib import Path
from local_rigs import rig, run_sql
from pytest_lakebranch.providers.local.rewind import gate
with rig(Path(sys.argv[1]), check=False, storage=sys.argv[3]) as made:
    one = made.start("one", made.base("create table t (i int)"))
    run_sql(one, "insert into t values (1)")
    two = made.start("two", one.fork_point())
    assert run_sql(two, "select count(*) from t") == [(1,)]
    two.end_connections()
    assert two.change() is None
    print(json.dumps([one.server.pid, two.server.pid, made.provider.facts.storage]), flush=True)
    if sys.argv[4] == "be killed":
        sys.stdin.read()
    if sys.argv[4] == "die in the gate":
        with gate.closed(one.server, one._clients):
            sys.stdin.read()
            os.kill(two.server.pid, gate.STOP)
            os.kill(os.getpid(), 9)
"""


def script(home: Path, rung: str, then: str, *, become: tuple[str, ...] = ()) -> list[str]:
    """A run in a process of its own: two branches, and then it waits or ends."""
    import json

    project = Path(pytest_lakebranch.__file__).parents[1]
    packages = [str(Path(__file__).parent), str(project), str(Path(psycopg.__file__).parents[1])]
    python = "/usr/bin/python3" if become else sys.executable
    return [*become, python, "-c", RUN, str(home), json.dumps(packages), rung, then]


@pytest.mark.parametrize(("rung", "then"), [("overlay", "be killed"), ("copy", "die in the gate")])
def test_servers_die_with_a_host_that_is_killed(tmp_path: Path, rung: str, then: str) -> None:
    """When the host is killed with -9, its servers end, and with them mounts and shared memory: also one that it has
    stopped to put a branch back, and one that it was just stopping.

    Their shared memory is in no place where it could be left: not in /dev/shm, and not in our IPC namespace.
    """
    import json

    command = script(tmp_path / "home", rung, then)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as host:
        assert host.stdout is not None
        assert host.stdin is not None
        line = host.stdout.readline()
        pids = json.loads(line)[:2]
        assert len(processes_in(tmp_path)) > 2
        for pid in pids:
            assert "/dev/shm" not in Path(f"/proc/{pid}/maps").read_text()
            assert Path(f"/proc/{pid}/ns/ipc").readlink() != Path("/proc/self/ns/ipc").readlink()
        if then == "be killed":
            host.kill()
        host.stdin.close()
    assert host.returncode == -signal.SIGKILL
    assert poll(lambda: None if processes_in(tmp_path) else True, deadline=Deadline(10)) is True
    assert len(pids) == 2


def _nobody_can_run() -> bool:
    project = Path(pytest_lakebranch.__file__)
    probe = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "/usr/bin/python3", "-c"]
    packages = str(Path(psycopg.__file__).parents[1])
    code = f"import sys; sys.path[:0] = [{packages!r}]; import psycopg, pytest; open({str(project)!r})"
    return subprocess.run([*probe, code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("rung", ["overlay", "copy", "snapshot", "reflink"])
def test_ordinary_user(local_volumes: Volumes, rung: str) -> None:
    """An ordinary user gets branches and forks on each rung, and leaves nothing."""
    if os.geteuid() != 0 or not _nobody_can_run():
        pytest.skip("needs root to become an ordinary user, and a Python with psycopg that this user can run")
    where = local_volumes.home(rung)
    for directory in (local_volumes.directory, where):
        directory.chmod(0o755)
    home = where / f"nobody-{rung}"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    become = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    command = script(home, rung, "end", become=become)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert list((home / "runs").iterdir()) == []
