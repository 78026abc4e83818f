"""Each setting from flag, environment and ini; what is wrong is a usage error before the first test."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_lakebranch.config import TABLE, Row
from tests.plugin.conftest import Project

VALUES = {
    "provider": "local",
    "base": "sql:schema.sql",
    "database": "shop",
    "user": "clerk",
    "settings": "work_mem=1MB",
    "locale": "C",
    "env": "APP_URL",
    "autouse": "true",
    "postgres": "embedded",
    "storage": "copy",
    "rebuild": "true",
    "lock_timeout": "5s",
    "report": "out.json",
    "listen": "tcp",
    "keep": "failed",
    "keep_for": "2h",
    "schema_diff": "diff.md",
    "schema_diff_from": "source",
    "cache_size": "1G",
    "source": "projects/shop",
    "branches": "5",
    "requests": "100",
    "deadline": "1m",
    "ttl": "2h",
    "keep_template": "true",
    "endpoint_port": "6543",
    "endpoint_ca": "ca.pem",
    "check_migrations": "true",
    "check_migrations_since": "2",
    "check_migrations_allow": "table-rewrite",
    "owner": "pr-17",
    "home": "state",
}


@pytest.fixture(autouse=True)
def schema(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each project has a step file, and a test that must not run when a setting is wrong."""
    monkeypatch.delenv("LAKEBRANCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(project.home))
    project.write(schema_dot_sql="create table item (id int)", test_it="def test_it(): ...")


def test_values_for_all_settings() -> None:
    """This file tries every setting there is."""
    assert {row.name for row in TABLE} <= set(VALUES)


def shown(row: Row) -> str:
    """The value of VALUES as the header shows it."""
    return "True" if row.kind == "flag" else VALUES[row.name]


def test_each_setting_as_a_flag(project: Project) -> None:
    """The header shows the value and where it came from."""
    options = [[row.flag] if row.kind == "flag" else [row.flag, VALUES[row.name]] for row in TABLE]
    result = project.run("--collect-only", *(word for option in options for word in option))
    assert_sources(result, {row: row.flag for row in TABLE})


def test_each_setting_in_the_environment(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header shows the value and where it came from."""
    for row in TABLE:
        monkeypatch.setenv(row.env, VALUES[row.name])
    assert_sources(project.run("--collect-only"), {row: row.env for row in TABLE})


def test_each_setting_in_ini(project: Project) -> None:
    """The header shows the value and where it came from."""
    project.ini(**{row.ini: VALUES[row.name] for row in TABLE})
    assert_sources(project.run("--collect-only"), {row: f"{row.ini} in ini" for row in TABLE})


def assert_sources(result: pytest.RunResult, sources: dict[Row, str]) -> None:
    """The header's second line lists all settings with these sources."""
    result.stdout.fnmatch_lines(["lakebranch: local*", "lakebranch settings: *"])
    (line,) = [line for line in result.outlines if line.startswith("lakebranch settings: ")]
    entries = line.removeprefix("lakebranch settings: ").split("; ")
    assert len(entries) == len(sources)
    for row, source in sources.items():
        assert any(
            entry.startswith(f"{row.name}=") and entry.endswith(f"{shown(row)} (from {source})") for entry in entries
        ), (row.name, line)


def test_precedence(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line wins over the environment, the environment over ini."""
    project.ini(lakebranch_database="from_ini", lakebranch_user="from_ini", lakebranch_storage="copy")
    monkeypatch.setenv("LAKEBRANCH_DATABASE", "from_env")
    monkeypatch.setenv("LAKEBRANCH_USER", "from_env")
    result = project.run("--collect-only", "--lakebranch-user", "from_flag")
    result.stdout.fnmatch_lines(
        [
            "*database=from_env (from LAKEBRANCH_DATABASE); user=from_flag (from --lakebranch-user); "
            "storage=copy (from lakebranch_storage in ini)"
        ]
    )


def test_a_flag_can_be_taken_back(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ini, the environment or addopts switches on, the command line switches off."""
    project.ini(lakebranch_autouse="true", addopts="--lakebranch-rebuild")
    monkeypatch.setenv("LAKEBRANCH_KEEP_TEMPLATE", "true")
    flags = ("autouse", "rebuild", "keep-template")
    result = project.run("--collect-only", *(f"--no-lakebranch-{flag}" for flag in flags))
    for flag in flags:
        result.stdout.fnmatch_lines([f"*{flag.replace('-', '_')}=False (from --lakebranch-{flag})*"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("'sql:schema.sql'", "pytest_lakebranch_steps of *conftest.py returned 'sql:schema.sql': *a list of steps*"),
        ("5", "pytest_lakebranch_steps of *conftest.py returned 5: *a list of steps*"),
        ("['sql:missing.sql']", "*missing.sql*"),
    ],
)
def test_usage_errors_of_the_hook(project: Project, answer: str, message: str) -> None:
    """Steps that a hook supplies are looked at before the first test, too."""
    project.ini(lakebranch_base="sql:schema.sql")
    project.write(conftest=f"def pytest_lakebranch_steps(config):\n    return {answer}")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: lakebranch: {message}"])


def test_settings_reach_the_server(project: Project) -> None:
    """Database, role, server settings and locale are those of the branches; the role is no superuser."""
    project.ini(
        lakebranch_database="shop",
        lakebranch_user="clerk",
        lakebranch_settings=["work_mem=1MB", "timezone=Asia/Tokyo"],
        lakebranch_locale="C",
    )
    project.write(
        test_it="""
        def test_it(lakebranch_conn):
            row = lakebranch_conn.execute(
                "select current_database(), current_user, current_setting('work_mem'), current_setting('timezone'),"
                " (select rolsuper from pg_roles where rolname = current_user),"
                " (select datcollate from pg_database where datname = current_database())"
            ).fetchone()
            assert row == ("shop", "clerk", "1MB", "Asia/Tokyo", False, "C")
        """
    )
    project.run().assert_outcomes(passed=1)


WRONG = {
    ("--lakebranch-provider", "neno"): "--lakebranch-provider: 'neno' is not one of local, lakebase.",
    (
        "--lakebranch-base",
        "sqll:schema.sql",
    ): "*there is no kind 'sqll'. Did you mean sql:? Kinds are *",
    ("--lakebranch-base", "sql:missing.sql"): "*missing.sql*",
    ("--lakebranch-base", "python:missing:load"): "*missing*",
    ("--lakebranch-base", "dump:missing.dump"): "*missing.dump*",
    ("--lakebranch-postgres", "/nowhere"): "lakebranch_postgres: /nowhere holds no program named postgres*",
    ("--lakebranch-home", "/proc/nowhere"): "the state directory /proc/nowhere cannot be used*LAKEBRANCH_HOME*",
    ("--lakebranch-database", ""): "--lakebranch-database is set but empty*",
    ("--lakebranch-database", "template1"): "lakebranch_database: 'template1' is a maintenance database*",
    ("--lakebranch-settings", "work_mem"): "lakebranch_settings: 'work_mem' is not of the form name=value*",
    ("--lakebranch-settings", "nosuch=1"): 'lakebranch_settings: PostgreSQL * says: unrecognized *parameter "nosuch".',
    ("--lakebranch-settings", "work_mem=much"): '*says: invalid value for parameter "work_mem": "much".',
    ("--lakebranch-locale", "xx_YY.UTF-8"): "lakebranch_locale: this machine has no locale 'xx_YY.UTF-8'*locale-gen*",
    ("--lakebranch-settings", "port=1"): "lakebranch_settings: port cannot be set*",
    ("--lakebranch-env", "A-B"): "lakebranch_env: 'A-B' is neither NAME nor NAME=TEMPLATE*",
    ("--lakebranch-env", "PYTHONPATH"): "lakebranch_env: PYTHONPATH cannot be set: *",
    ("--lakebranch-env", "A={uri}"): "lakebranch_env: a template has an unknown placeholder*",
    ("--lakebranch-storage", "zfs"): "--lakebranch-storage: 'zfs' is not one of auto, snapshot*",
}


@pytest.mark.parametrize("options", WRONG, ids="=".join)
def test_usage_errors(project: Project, options: tuple[str, str]) -> None:
    """What the controller can know is said before the first test, in one message, with exit code 4."""
    result = project.run("=".join(options))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: lakebranch: {WRONG[options]}"])
    assert "Traceback" not in str(result.stderr)
    assert "collected" not in str(result.stdout)
    assert "pytest_lakebranch/" not in str(result.stderr) + str(result.stdout)


@pytest.mark.parametrize("name", ["LAKEBRANCH_PROVIDER", "LAKEBRANCH_BASE", "LAKEBRANCH_AUTOUSE"])
def test_set_but_empty(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A setting that is set but empty is an error, which names its place."""
    monkeypatch.setenv(name, "")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "is set but empty" if name != "LAKEBRANCH_AUTOUSE" else "'' is neither true nor false"
    result.stderr.fnmatch_lines([f"ERROR: lakebranch: {name}*{said}*"])


def test_misspelt_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt name in ini or environment is refused, with the one that was meant."""
    project.ini(lakebranch_bas="sql:schema.sql")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: lakebranch: there is no setting lakebranch_bas. Did you mean lakebranch_base?"]
    )
    project.ini(lakebranch_base="sql:schema.sql")
    monkeypatch.setenv("LAKEBRANCH_PROVIDR", "local")
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no setting LAKEBRANCH_PROVIDR. Did you mean LAKEBRANCH_PROVIDER?"])


def test_rung_that_the_machine_lacks(project: Project) -> None:
    """A forced rung that does not work is refused with what was tried, what the system said and what would work."""
    result = project.run("--lakebranch-storage", "snapshot", "--lakebranch-home", str(project.path / "state"))
    if "collected" in str(result.stdout):
        pytest.skip("this machine's temporary directory is on btrfs")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: lakebranch: lakebranch_storage is 'snapshot', but that does not work in *"])
    result.stderr.fnmatch_lines(["*Tried: *. The system said: *. Here would work: *copy (or auto)*"])


@pytest.mark.parametrize("options", ["--lakebranch-provider=neno", "--lakebranch-postgres=/nowhere"])
def test_usage_errors_with_workers(project: Project, options: str) -> None:
    """With workers there is one message, no internal error and no traceback."""
    result = project.spawn("-n", "2", options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert str(result.stderr).count("ERROR: lakebranch:") == 1
    for text in ("INTERNALERROR", "Traceback"):
        assert text not in str(result.stderr) + str(result.stdout)


@pytest.mark.parametrize("env", [[], ["DATABASE_URL"]], ids=["without_url", "with_url"])
def test_socket_directory_that_is_open_to_others(project: Project, sockets: Path, env: list[str]) -> None:
    """A socket directory that others may enter is refused in one message, with and without the application's URL."""
    project.ini(lakebranch_base="sql:schema.sql", **({"lakebranch_env": env} if env else {}))
    sockets.mkdir(exist_ok=True, mode=0o700)
    sockets.chmod(0o755)
    try:
        result = project.spawn()
    finally:
        sockets.chmod(0o700)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: lakebranch: {sockets} is open to other users*"])
    assert "Traceback" not in str(result.stderr) + str(result.stdout)


def test_socket_directory_without_settings(project: Project, sockets: Path) -> None:
    """Where no setting made the controller look, the test fails with the message alone."""
    sockets.mkdir(exist_ok=True, mode=0o700)
    sockets.chmod(0o755)
    project.write(test_it="def test_one(lakebranch): ...\n\ndef test_two(lakebranch): ...")
    try:
        result = project.run()
    finally:
        sockets.chmod(0o700)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([f"*{sockets} is open to other users*"])
    result.stdout.no_fnmatch_line("*pytest_lakebranch/*")


def test_no_header_without_settings(project: Project) -> None:
    """A project that only asks for a fixture has no header of ours, and gets the defaults."""
    project.write(test_it="def test_it(lakebranch): assert lakebranch.endpoint.dbname == 'app'")
    result = project.run()
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("lakebranch: *")


def test_header_names_what_was_found(project: Project) -> None:
    """With a setting, the header has provider, PostgreSQL's version and origin, and the rung with its reason."""
    project.ini(lakebranch_base="sql:schema.sql")
    result = project.run()
    result.stdout.fnmatch_lines(["lakebranch: local, PostgreSQL 1?.* (*), storage * (*)"])
