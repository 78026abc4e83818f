"""The cache of layers: what is sealed stays whole, what is not whole does not count, what is used stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from local_rigs import Rig, rig, run_sql

from pytest_lakebranch.errors import BaseError, MachineError
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.providers.local.cache import stored, tidy

pytest_plugins = ["local_fixtures"]

MakeRig = Callable[..., AbstractContextManager[Rig]]
KEY = "c0ffee" * 10
SQL = "create table t (i int); insert into t values (1)"


def layer_of(made: Rig, key: str = KEY) -> Path:
    """The sealed data directory of a layer."""
    folder = made.home / "layers" / key
    return folder / json.loads((folder / "layer.json").read_text())["generation"]


def test_layer_outlives_its_run(local_rig: MakeRig) -> None:
    """A second run finds the layer that a first one sealed, and needs no step."""
    with local_rig() as made:
        made.base(SQL, key=KEY)
    with local_rig() as made:
        at = made.provider.cached(KEY)
        assert at is not None
        assert run_sql(made.start(at=at), "select * from t") == [(1,)]


def test_layer_is_small(local_rig: MakeRig) -> None:
    """A layer holds one segment of the log, and nothing of a server's life."""
    with local_rig() as made:
        made.base(SQL, key=KEY)
        data = layer_of(made)
        assert [path.stat().st_size for path in (data / "pg_wal").iterdir() if path.is_file()] == [1 << 20]
        assert not list(data.rglob("postmaster.*")) + list(data.rglob("pg_internal.init"))
        assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < 36 << 20


@pytest.mark.parametrize("damage", ["missing", "short", "extra", "mark", "all"])
def test_damaged_layer_counts_as_none(local_rig: MakeRig, damage: str) -> None:
    """A layer whose files are not those that were sealed is removed and can be built again."""
    with local_rig() as made:
        made.base(SQL, key=KEY)
        data = layer_of(made)
    victim = data / "global" / "1260"
    actions: dict[str, Callable[[], object]] = {
        "missing": victim.unlink,
        "short": lambda: os.truncate(victim, 4096),
        "extra": lambda: (data / "base" / "99999").write_bytes(b""),
        "mark": lambda: (data.parent / "layer.json").write_text("{"),
        "all": lambda: subprocess.run(["rm", "-rf", data], check=True),
    }
    actions[damage]()
    with local_rig() as made:
        assert made.provider.cached(KEY) is None
        assert damage == "mark" or not data.exists()
        if damage == "short":
            at = made.base(SQL, key=KEY)
            assert run_sql(made.start(at=at), "select * from t") == [(1,)]


def test_layer_of_another_format_counts_as_none(local_rig: MakeRig) -> None:
    """A layer that a later version made is neither used nor touched."""
    with local_rig() as made:
        made.base(SQL, key=KEY)
        mark = made.home / "layers" / KEY / "layer.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "format": 99}))
    with local_rig() as made:
        assert made.provider.cached(KEY) is None
        assert layer_of(made).exists()


def test_rebuild_leaves_running_branches_alone(local_rig: MakeRig) -> None:
    """While one run uses a layer another replaces it: the first goes on with the old one, which goes when it ends."""
    with local_rig() as first:
        old = first.base(SQL, key=KEY)
        data = layer_of(first)
        with rig(first.home) as second:
            compute = second.provider.build("base", None)
            with connect(compute.endpoint, autocommit=True) as connection:
                connection.execute("create table t (i int); insert into t values (2)")
            new = second.provider.seal(compute, KEY)
            assert run_sql(second.start(at=new), "select * from t") == [(2,)]
        assert run_sql(first.start(at=old), "select * from t") == [(1,)]
        assert data.exists()
    assert not data.exists()
    with local_rig() as made:
        at = made.provider.cached(KEY)
        assert at is not None
        assert run_sql(made.start(at=at), "select * from t") == [(2,)]


HOLD = """
import sys, time
from pathlib import Path
from pytest_lakebranch import config
from pytest_lakebranch.providers.local.layers import Layers
with Layers(Path(sys.argv[1]), None, None).building("k"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_build_lock_is_free_when_its_holder_is_killed(local_rig: MakeRig) -> None:
    """A builder that is killed with -9 does not keep the others waiting."""
    with local_rig() as made:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, made.home / "layers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
        with made.provider.building("k"):
            pass


def test_layer_on_a_layer(any_rung: Rig) -> None:
    """A base can be built on a sealed one, which stays as it was."""
    at = any_rung.base()
    compute = any_rung.provider.build("next", at)
    with connect(compute.endpoint, autocommit=True) as connection:
        connection.execute("delete from item")
    above = any_rung.provider.seal(compute, "above")
    counts = [run_sql(any_rung.start("b", point), "select count(*) from item") for point in (at, above)]
    assert counts == [[(2000,)], [(0,)]]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("create database frozen allow_connections false", r"databases that allow no connection.*frozen"),
        ("select pg_create_physical_replication_slot('held')", r"replication slots: held"),
        ("begin; create table p (i int); prepare transaction 'half'", r"prepared transactions: 'half' in database app"),
        ("alter role tester nologin", r"role 'tester' cannot connect"),
        ("drop owned by tester; alter database app rename to gone", r"cannot connect to database 'app'"),
    ],
)
def test_what_cannot_be_sealed_is_named(local_rig: MakeRig, sql: str, says: str) -> None:
    """A step's leftovers end the build with one error that names them; nothing is cached."""
    given = ("max_replication_slots=2", "max_wal_senders=2", "max_prepared_transactions=2")
    with local_rig(settings=given, user="tester") as made:
        compute = made.provider.build("base", None)
        where = compute.server.endpoint("postgres" if "rename" in sql else "app")  # type: ignore[attr-defined]
        with connect(where, autocommit=True) as connection:
            for statement in sql.split("; "):
                connection.execute(statement)
        with pytest.raises(BaseError, match=says):
            made.provider.seal(compute, KEY)
        assert made.provider.cached(KEY) is None
        assert made.left() == [str(made.run / name) for name in ("branches", "building", "frozen")]


def test_connection_left_open_is_named(local_rig: MakeRig) -> None:
    """A step that leaves a connection open is told which, with its last query."""
    with local_rig() as made:
        compute = made.provider.build("base", None)
        left = connect(compute.endpoint, application_name="my-pool", autocommit=True)
        left.execute("select 42")
        with pytest.raises(BaseError, match=r"left connections open.*my-pool.*select 42"):
            made.provider.check_quiet(compute)
        left.close()
        made.provider.check_quiet(compute)


def test_tablespace_is_refused(local_rig: MakeRig, tmp_path: Path) -> None:
    """Tablespaces would be shared by all branches, and are refused."""
    (tmp_path / "space").mkdir(mode=0o700)
    with local_rig() as made:
        compute = made.provider.build("base", None)
        with connect(compute.endpoint, autocommit=True) as connection:
            connection.execute(f"create tablespace elsewhere location '{tmp_path / 'space'}'")
        with pytest.raises(BaseError, match=r"tablespaces.*elsewhere"):
            made.provider.seal(compute, KEY)


def test_full_disk(local_volumes: object, tmp_path: Path) -> None:
    """A disk that fills up while a base is built or a branch is made: one error, nothing half-made, nothing cached."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60m,mode=700", "tmpfs", small], check=True)
    try:
        with rig(small / "home", storage="copy") as made:
            at = made.base(SQL, key=KEY)
            with pytest.raises(MachineError, match=r"disk full while making branch.*MB free"):
                [made.start(f"b{number}", at) for number in range(3)]
            with pytest.raises(MachineError, match="disk full"):
                made.provider.build("base", at)
        with rig(small / "home", storage="copy") as made:
            assert made.provider.cached(KEY) == at
    finally:
        subprocess.run(["umount", small], check=True)


def test_killed_while_sealing_leaves_no_layer(local_rig: MakeRig) -> None:
    """A generation without a mark, as a killed builder leaves it, does not count and goes with the next seal."""
    with local_rig() as made:
        stray = made.home / "layers" / KEY / "0123456789ab"
        stray.mkdir(parents=True)
        (stray / "file").write_text("x")
        assert made.provider.cached(KEY) is None
        made.base(SQL, key=KEY)
        assert not stray.exists()


def keys_of(made: Rig) -> set[str]:
    """The keys of the layers in the cache."""
    return {path.name for path in (made.home / "layers").iterdir() if path.is_dir()}


def test_the_cache_is_limited(local_rig: MakeRig) -> None:
    """When a run ends, layers go until the cache is small enough: the least recently used first, never one in use."""
    keys = [f"{number}" * 60 for number in range(4)]
    with local_rig() as other:
        for number, key in enumerate(keys[:3]):
            other.base(SQL, key=key)
            os.utime(other.home / "layers" / key / "layer.json", (1000 + number,) * 2)
    size = stored(other.home / "layers")[0].bytes
    with rig(other.home) as user, rig(other.home, cache_size=f"{3 * size >> 10}K") as small:
        assert user.provider.cached(keys[0]) is not None
        os.utime(other.home / "layers" / keys[0] / "layer.json", (1000, 1000))
        small.base(SQL, key=keys[3])
        small.provider.close()
        assert keys_of(small) == {keys[0], keys[3]}
    with rig(other.home, cache_size="1K") as tiny:
        assert tiny.provider.cached(keys[3]) is not None
        tiny.provider.close()
        assert keys_of(tiny) == {keys[3]}


def test_tidying_up(local_rig: MakeRig) -> None:
    """What killed builders left goes; what is sealed, built or used stays as it is."""
    with local_rig() as made:
        made.base(SQL, key=KEY)
        folder = made.home / "layers" / KEY
        sealed = layer_of(made)
        for stray in (folder / "0123456789ab", made.home / "layers" / ("ab" * 30) / "0123456789ab"):
            stray.mkdir(parents=True)
            (stray / "file").write_text("x")
        (folder / "layer.0123456789ab").write_text("{")
        with made.provider.building("cd" * 30):
            building = made.home / "layers" / ("cd" * 30)
            (building / "0123456789ab").mkdir(parents=True)
            tidy(made.home / "layers")
            assert building.exists()
        assert keys_of(made) == {KEY, building.name}
        assert {path.name for path in folder.iterdir()} == {"layer.json", sealed.name}
        tidy(made.home / "layers")
        assert keys_of(made) == {KEY}
        assert run_sql(made.start(at=made.base(SQL, key=KEY)), "select * from t") == [(1,)]
