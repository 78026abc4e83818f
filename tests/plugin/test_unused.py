"""A plugin that is installed but not used costs a run nothing."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Project, entries, without_others

HEAVY = ("httpx", "psycopg", "faker", "filelock", "platformdirs", "django", "sqlalchemy", "pytest_lakebranch.run")


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["alone", "workers"])
def test_nothing_is_loaded_said_or_made(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    runtime_directory: object,
    options: tuple[str, ...],
) -> None:
    """No module, no header, no variable, no directory: neither in the controller nor in a worker."""
    monkeypatch.delenv("LAKEBRANCH_HOME")
    cache, runtime = tmp_path_factory.mktemp("cache"), tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    project.pytester.makeini("[pytest]")
    project.write(
        conftest=f"""
        import os, sys

        BEFORE = dict(os.environ)

        def pytest_unconfigure(config):
            loaded = [name for name in {HEAVY!r} if name in sys.modules]
            assert not loaded, loaded
        """,
        test_it=f"""
        import os, sys, threading, pytest
        from conftest import BEFORE

        @pytest.mark.destructive
        def test_it():
            assert [name for name in {HEAVY!r} if name in sys.modules] == []
            assert [name for name in os.environ if name.startswith(("LAKEBRANCH", "PG", "DATABASE"))] == []
            assert [thread.name for thread in threading.enumerate() if "lakebranch" in thread.name] == []
        """,
    )
    result = project.spawn(*without_others(), "-p", "no:platformdirs", *options, plain=False)
    result.assert_outcomes(passed=1)
    assert "lakebranch:" not in str(result.stdout)
    assert "leases of tests" not in str(result.stdout)
    assert result.ret == 0
    assert (entries(cache), entries(runtime)) == ([], [])
