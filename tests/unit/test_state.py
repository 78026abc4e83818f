"""The state directory: made private, or refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_lakebranch.errors import MachineError
from pytest_lakebranch.kept import Kept, pinned, write
from pytest_lakebranch.servant import way_to
from pytest_lakebranch.state import FORMAT, State, default_home, make_private, sockets_root


def test_it_is_made_private(tmp_path: Path) -> None:
    """All directories that we make are closed to others."""
    state = State(tmp_path / "deep" / "home").ensure()
    for directory in (state.home, state.layers, state.runs):
        assert directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("path", ["/dev/null/x", "/proc/nope"])
def test_one_that_cannot_be_made(path: str) -> None:
    """The message has the path, the system's answer and what to set."""
    with pytest.raises(MachineError, match=rf"{path}.*LAKEBRANCH_HOME"):
        State(Path(path)).ensure()


def test_one_of_a_newer_version(tmp_path: Path) -> None:
    """It is refused and left as it is."""
    (tmp_path / "FORMAT").write_text(str(FORMAT + 1))
    with pytest.raises(MachineError, match="Upgrade"):
        State(tmp_path).ensure()
    assert (tmp_path / "FORMAT").read_text() == str(FORMAT + 1)


def test_kept_branches_pin_their_layers_whatever_the_way_to_them(tmp_path: Path) -> None:
    """Through a link, or as another container sees it, a state directory is the same."""
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to("home")
    state = State.at(str(tmp_path / "link"))
    assert state.home == tmp_path / "home"
    for number, home in enumerate((tmp_path / "home", tmp_path / "link", Path("/cache"))):
        directory = state.kept / f"r-b{number}"
        directory.mkdir(parents=True)
        stands_on = str(home / "layers" / "key" / str(number))
        write(directory, Kept("r", "b", "t", "w", "failed", "/", 0, 0, {}, stands_on))
    assert pinned(state) == {state.layers / "key" / str(number) for number in range(3)}


@pytest.mark.parametrize(("mark", "says"), [("2", "Upgrade"), ("", "is damaged: its file FORMAT should say 1")])
def test_nothing_is_made_in_one_that_is_refused(tmp_path: Path, mark: str, says: str) -> None:
    """Another version's directory, or a damaged one, gets no directories of this version."""
    (tmp_path / "FORMAT").write_text(mark)
    with pytest.raises(MachineError, match=says):
        State(tmp_path).ensure()
    assert [path.name for path in tmp_path.iterdir()] == ["FORMAT"]


def test_the_way_to_a_directory(tmp_path: Path) -> None:
    """Links lead through directories that the path does not name, and that may be closed."""
    (tmp_path / "closed" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to("closed/real")
    assert {tmp_path, tmp_path / "link", tmp_path / "closed"} <= set(way_to(tmp_path / "link" / "deeper"))
    assert way_to(Path("/a/b")) == (Path("/"), Path("/a"), Path("/a/b"))


AT_ONCE = """
import sys
from pathlib import Path
from pytest_lakebranch.state import State
for number in range(300):
    State(Path(sys.argv[1], str(number))).ensure()
"""


def test_many_make_it_at_once(tmp_path: Path) -> None:
    """Workers that use a state directory for the first time at the same time all find a whole mark in it."""
    command = [sys.executable, "-c", AT_ONCE, str(tmp_path)]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert [run.communicate()[1] for run in runs] == [""] * len(runs)
    assert [path.name for path in tmp_path.glob("*/FORMAT*")] == ["FORMAT"] * 300


def test_a_path_too_long_for_postgresql(tmp_path: Path) -> None:
    """It is refused before anything is made there."""
    long = tmp_path.joinpath(*["x" * 200] * 5)
    with pytest.raises(MachineError, match="bytes"):
        State(long).ensure()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_open_to_others_is_not_used(tmp_path: Path) -> None:
    """Nor is its mode changed: it is not ours to change."""
    open_one = tmp_path / "open"
    open_one.mkdir(mode=0o755)
    with pytest.raises(MachineError, match="chmod 700"):
        make_private(open_one)
    assert open_one.stat().st_mode & 0o777 == 0o755


def test_a_link_that_somebody_planted_is_not_followed(tmp_path: Path) -> None:
    """The directory it leads to is not used."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(MachineError, match="not a directory of uid"):
        make_private(tmp_path / "link")


def test_without_a_home_directory_the_temporary_one_is_used() -> None:
    """A container may have no HOME."""
    assert default_home({}).name == f"pytest-lakebranch-{os.geteuid()}"


@pytest.mark.parametrize("planted", ["link", "open", "of another"])
def test_a_default_that_somebody_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    """Where everybody may make directories, one that others made or may write to is not used."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    home = tmp_path / f"pytest-lakebranch-{os.geteuid()}"
    home.mkdir(mode=0o755)
    assert default_home({}) == home
    if planted == "open":
        home.chmod(0o777)
    elif planted == "link":
        home.rename(tmp_path / "real")
        home.symlink_to("real")
    elif os.geteuid() == 0:
        os.chown(home, 1000, 1000)
    else:
        pytest.skip("needs root to give a directory to another user")
    with pytest.raises(MachineError, match="is not a directory that belongs to uid"):
        default_home({})


def test_sockets_are_short_wherever_the_temporary_directory_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has a limit of some hundred bytes; a longer temporary directory is passed over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 120)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("y" * 120)))
    assert sockets_root() == Path(f"/tmp/lakebranch-{os.geteuid()}")
