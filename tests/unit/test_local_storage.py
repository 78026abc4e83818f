"""Trees, copies and choices of the local provider, without a server."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from databricks.sdk.core import Config

from pytest_lakebranch.directories import remove_tree
from pytest_lakebranch.providers.local import control_file, disk, launch, storage
from pytest_lakebranch.providers.local.cluster import locale_flags
from pytest_lakebranch.providers.local.rewind.knowledge import SealedFiles
from pytest_lakebranch.providers.local.rewind.unproven import UnprovenError
from pytest_lakebranch.providers.local.server_settings import flags
from pytest_lakebranch.providers.local.storage import copying
from pytest_lakebranch.providers.local.storage.overlay import options
from pytest_lakebranch.providers.local.storage.refresh import refresh_copy
from pytest_lakebranch.providers.local.storage.tree import copy_tree, scan


def make(root: Path, files: dict[str, bytes]) -> Path:
    """A directory with these files."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def contents(root: Path) -> dict[str, bytes]:
    """The files of a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_copy_is_equal_with_times_and_without_a_servers_own_files(tmp_path: Path) -> None:
    """A copy has every file and directory with content and time, but not what a server makes for itself."""
    source = make(tmp_path / "a", {f"base/{n}": bytes([n % 256]) * n for n in range(200)})
    make(source, {"postmaster.pid": b"1", "global/pg_internal.init": b"x", "global/1": b""})
    (source / "pg_notify").mkdir()
    copy_tree(source, tmp_path / "b", scan(source), copying.copy_data)
    assert scan(tmp_path / "b") == scan(source)
    assert contents(tmp_path / "b").keys() == contents(source).keys() - {"postmaster.pid", "global/pg_internal.init"}
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700


def test_holes_stay_holes(tmp_path: Path) -> None:
    """A sparse file is equal after copying and takes no more of the disk."""
    source = tmp_path / "a"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(10 << 20)
        file.write(b"x" * 5000)
    with source.open("rb") as origin, (tmp_path / "b").open("wb") as target:
        copying.copy_data(origin.fileno(), target.fileno(), 64 << 20)
    assert (tmp_path / "b").read_bytes() == source.read_bytes()
    assert (tmp_path / "b").stat().st_blocks * 512 < 1 << 20


def test_file_that_shrank_is_copied_as_it_is(tmp_path: Path) -> None:
    """A file that is shorter than it was when it was listed gives what there is."""
    source = make(tmp_path, {"a": b"short"}) / "a"
    with source.open("rb") as origin, (tmp_path / "b").open("wb") as target:
        copying.copy_data(origin.fileno(), target.fileno(), 5)
    assert (tmp_path / "b").read_bytes() == b"short"


def test_refresh_undoes_everything(tmp_path: Path) -> None:
    """Changed, same-sized, shrunk, removed, added, linked and replaced files: all are as in the original again."""
    names = ("same", "changed", "shrunk", "removed", "moved", "linked", "mode", "d/deep", "e/f/g")
    source = make(tmp_path / "a", {name: name.encode() * 9 for name in names})
    data, tree = tmp_path / "b", scan(source)
    copy_tree(source, data, tree, copying.copy_data)
    (data / "changed").write_bytes(b"x" * 63)
    os.truncate(data / "shrunk", 3)
    (data / "removed").unlink()
    (data / "moved").rename(data / "elsewhere")
    (data / "linked").unlink()
    (data / "linked").symlink_to(data / "same")
    (data / "mode").chmod(0o644)
    remove_tree(data / "e")
    make(data, {"d/new": b"1", "n/e/w": b"2", "e": b"a file"})
    refresh_copy(source, data, tree, copying.copy_data)
    assert contents(data) == contents(source)
    assert scan(data) == tree
    assert not any(path.is_symlink() for path in data.rglob("*"))


def test_tree_with_closed_directories_is_removed(tmp_path: Path) -> None:
    """What overlayfs leaves, directories that nobody may look into, can be removed by their owner."""
    closed = make(tmp_path / "a", {"work/work/inner/file": b"x"}) / "work" / "work"
    (closed / "inner").chmod(0)
    closed.chmod(0)
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_users_settings_come_last() -> None:
    """PostgreSQL takes the last of two flags: the user's."""
    words = flags(sockets=Path('/s/"x'), major=18, own_ipc=True, user={"fsync": "on"})
    assert words[-2:] == ["-c", "fsync=on"]
    assert "fsync=off" in words
    assert 'unix_socket_directories="/s/""x"' in words
    assert "dynamic_shared_memory_type=sysv" in words


@pytest.mark.parametrize(("major", "there"), [(15, False), (17, False), (18, True)])
def test_io_method_only_where_it_exists(major: int, there: bool) -> None:
    """A setting that a version does not know would keep its server from starting."""
    assert ("io_method=sync" in flags(sockets=None, major=major, own_ipc=False, user={})) is there


@pytest.mark.parametrize(
    ("locale", "major", "expected"),
    [
        ("C.UTF-8", 18, ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]),
        ("icu:de-AT", 18, ["--locale=C", "--locale-provider=icu", "--icu-locale=de-AT"]),
        ("de_DE.UTF-8", 15, ["--locale=de_DE.UTF-8"]),
    ],
)
def test_locale_flags(locale: str, major: int, expected: list[str]) -> None:
    """Each kind of locale goes to the provider that has it."""
    assert locale_flags(locale, major) == expected


def test_mount_options_show_nothing_of_the_common_path(tmp_path: Path) -> None:
    """What the layer and the branch have in common, the state directory with any character, is not in the options."""
    home = tmp_path / "a:b,c"
    assert options(home / "layers" / "k" / "g", home / "runs" / "r" / "b").startswith("lowerdir=../../../layers/k/g,")
    with pytest.raises(OSError, match="cannot mount"):
        options(tmp_path / "x:y", tmp_path / "b")


def test_log_segment_names() -> None:
    """Names of one-megabyte segments count on beyond 4 GB of log."""
    assert control_file.segment_suffix(control_file.position("0/1A2B3C")) == "0000000000000001"
    assert control_file.segment_suffix(control_file.position("2/FFF00000")) == "0000000200000FFF"


def test_choice_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    """Probing takes the first rung that works and leaves the directory as it was."""
    chosen = storage.choose("auto", directory=tmp_path, machine=launch.inspect())
    assert chosen.storage.rung in {"snapshot", "overlay", "reflink", "copy"}
    assert disk.filesystem(tmp_path) in chosen.reason
    assert list(tmp_path.iterdir()) == []


def test_a_sealed_file_gives_all_that_is_asked_of_it(tmp_path: Path) -> None:
    """What ends before it should is damaged, and is never taken for what was sealed."""
    make(tmp_path, {"base/1": bytes(8192)})
    files = SealedFiles(str(tmp_path), scan(tmp_path))
    assert files.read("base/1", 8192, 0) == bytes(8192)
    with pytest.raises(UnprovenError, match="damaged"):
        files.read("base/1", 8192, 4096)
    files.close()
    assert files.damage


def test_no_login_reaches_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Databricks' SDK makes one from is taken away; what a server may need stays."""
    secret = {each.env for each in Config.attributes() if each.env} | {"ACTIONS_ID_TOKEN_REQUEST_TOKEN"}
    for name in secret:
        monkeypatch.setenv(name, "secret")
    found = launch.environment()
    assert not secret & found.keys()
    assert found["PATH"] == os.environ["PATH"]
