"""``--lakebranch-report``: what is written, where, and what happens when it cannot be."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_lakebranch.cli import main
from pytest_lakebranch.config import resolve
from pytest_lakebranch.model import ProviderFacts
from pytest_lakebranch.reporting.files import nothing, write_reports
from tests.plugin.cli_rigs import SCHEMA, standing
from tests.plugin.conftest import Project, entries

DESCRIPTION = json.loads(resources.files("pytest_lakebranch.reporting").joinpath("report.schema.json").read_text())
SUITE = """
import os, psycopg, pytest

KEPT = []

def test_read(lakebranch_conn):
    assert lakebranch_conn.execute("select count(*) from item").fetchone() == (2,)

def test_write(lakebranch_worker, lakebranch):
    with lakebranch.connect() as conn:
        conn.execute("delete from item")

def test_run(lakebranch_run): ...

@pytest.mark.parametrize("name", [""], ids=["a (b) c"])
def test_fork(lakebranch, name):
    with lakebranch.fork() as child:
        assert child.parent == lakebranch.name

@pytest.mark.destructive
def test_destroy(lakebranch): ...

@pytest.mark.lakebranch
@pytest.mark.parametrize("name", ["<b>&'"], ids=["<b>&'"])
def test_leave_open(name):
    KEPT.append(psycopg.connect(os.environ["DATABASE_URL"]))

def teardown_module():
    for connection in KEPT:
        connection.close()
"""


@pytest.fixture(autouse=True)
def base(project: Project) -> None:
    """Each project has a table with two rows."""
    project.write(schema_dot_sql=SCHEMA)
    project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL")


def read(path: Path) -> dict[str, Any]:
    """A report, which is as its schema says."""
    report: dict[str, Any] = json.loads(path.read_text())
    jsonschema.Draft202012Validator(DESCRIPTION).validate(report)
    return report


def of_tests(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The leases of tests by the test's name."""
    return {lease["test"].split("::")[-1]: lease for lease in report["leases"] if lease["purpose"] == "test"}


@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.soak), "2"])
def test_the_record(project: Project, workers: str) -> None:
    """Every lease is in it, with its parentage, its times, how it ended and why; the schema holds."""
    project.write(test_it=SUITE)
    result = project.spawn("-n", workers, "--lakebranch-report=out/report.json")
    result.assert_outcomes(passed=6)
    result.stdout.fnmatch_lines([f"lakebranch report: {project.path}/out/report.json"])
    report = read(project.path / "out" / "report.json")
    tests = of_tests(report)
    assert {name: lease["end"]["ending"] for name, lease in tests.items() if name != "test_leave_open[<b>&']"} == {
        "test_read": "clean",
        "test_write": "rewind",
        "test_fork[a (b) c]": "clean",
        "test_destroy": "replace",
    }
    assert tests["test_destroy"]["end"]["reason"] == "destructive"
    assert tests["test_leave_open[<b>&']"]["end"]["connections"] == 1
    by_lease = {lease["lease"]: lease for lease in report["leases"]}
    assert by_lease[tests["test_write"]["under"]]["purpose"] == "worker"
    (fork,) = (lease for lease in report["leases"] if lease["purpose"] == "fork")
    parent = tests["test_fork[a (b) c]"]
    assert (fork["under"], fork["test"]) == (parent["lease"], parent["test"])
    assert sum(report["totals"]["endings"].values()) == report["totals"]["leases"] == len(report["leases"])
    assert all(
        report["run"]["began"] <= lease["began"] <= lease["began"] + lease["end"]["held"] <= report["run"]["ended"] + 1
        for lease in report["leases"]
    )
    assert {lease["base"] for lease in report["leases"]} == {base["key"] for base in report["bases"]}
    assert report["run"]["root"] == str(project.path)


def test_the_schema_is_a_schema_and_refuses(project: Project) -> None:
    """The schema is valid, describes every key, and is not satisfied by a report that lacks one."""
    jsonschema.Draft202012Validator.check_schema(DESCRIPTION)
    project.write(test_it=SUITE)
    project.run("--lakebranch-report=report.json").assert_outcomes(passed=6)
    report = read(project.path / "report.json")
    assert set(report) == set(DESCRIPTION["properties"])
    assert set(report["leases"][0]) == set(DESCRIPTION["properties"]["leases"]["items"]["properties"])
    for key in report:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({name: value for name, value in report.items() if name != key}, DESCRIPTION)


def test_tests_of_killed_workers(project: Project) -> None:
    """The lease of a test whose worker was killed is in the report, with the reason."""
    project.write(
        test_it="""
        import os, signal

        def test_killed(lakebranch):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_after(lakebranch): ...
        """
    )
    project.spawn("-n", "1", "--lakebranch-report=r.json", "--lakebranch-report=r.html").assert_outcomes(
        passed=1, failed=1
    )
    tests = of_tests(read(project.path / "r.json"))
    assert tests["test_killed"]["end"]["ending"] == "replace"
    assert "ended without returning it" in tests["test_killed"]["end"]["reason"]
    assert tests["test_after"]["end"]["ending"] == "clean"
    assert "gw0 ended without returning it" in (project.path / "r.html").read_text()


def test_a_run_without_branches(project: Project) -> None:
    """Where no test asked for a branch, the report is there all the same, and empty."""
    project.write(test_it="def test_it(): ...")
    project.run("--lakebranch-report=r.json", "--lakebranch-report=r.html").assert_outcomes(passed=1)
    assert read(project.path / "r.json")["leases"] == []
    assert "No test asked for a branch." in (project.path / "r.html").read_text()


def test_collecting_writes_nothing(project: Project) -> None:
    """--collect-only leaves an older report as it is."""
    project.write(test_it=SUITE)
    (project.path / "r.json").write_text("older")
    project.run("--collect-only", "-q", "--lakebranch-report=r.json")
    assert (project.path / "r.json").read_text() == "older"


@pytest.mark.parametrize("options", [(), ("-q",)], ids=["plain", "quiet"])
def test_a_path_that_cannot_be_written(project: Project, options: tuple[str, ...]) -> None:
    """The run does not fail; the summary says which report is missing and why, also under -q; others are written."""
    project.write(test_it=SUITE)
    (project.path / "file").write_text("")
    result = project.run(*options, "--lakebranch-report=file/r.json", "--lakebranch-report=r.html")
    result.assert_outcomes(passed=6)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [f"lakebranch report {project.path}/file/r.json: not written: File exists ({project.path}/file)"]
    )
    assert (project.path / "r.html").exists()
    assert [path.name for path in project.path.iterdir() if path.name.startswith(".lakebranch")] == []


def test_a_directory_in_its_place(project: Project) -> None:
    """A directory with the report's name is left alone, and said."""
    project.write(test_it="def test_it(lakebranch): ...")
    (project.path / "r.html").mkdir()
    result = project.run("--lakebranch-report=r.html")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["lakebranch report *r.html: not written: Is a directory"])
    assert [path.name for path in project.path.iterdir() if path.name.startswith(".lakebranch")] == []


@pytest.mark.parametrize("name", ["report.txt", "report", "r.json.gz", ".json"])
def test_an_unknown_suffix(project: Project, name: str) -> None:
    """A report of an unknown kind is a usage error before the first test."""
    project.write(test_it=SUITE)
    result = project.run(f"--lakebranch-report={name}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*lakebranch_report: '{name}' ends in none of the known suffixes .json, .html*"])


def test_a_host_that_died(project: Project) -> None:
    """When the host was killed there is no report, and the summary says so; the run's outcome is that of its tests."""
    with standing(project, "--lakebranch-report=r.json") as run:
        run.host().kill()
        said = run.end()
    assert f"lakebranch report {project.path}/r.json: not written: the host is gone" in said
    assert not (project.path / "r.json").exists()
    assert "INTERNALERROR" not in said
    assert main(["reap"]) == 0


@pytest.mark.parametrize("name", ["report.html", "report.json"])
def test_a_path_that_is_no_utf8(tmp_path: Path, name: str) -> None:
    """The report of a project in a directory whose name is no UTF-8 is written, with a backslash for such a byte."""
    root = tmp_path / os.fsdecode(b"caf\xe9")
    settings = resolve(options={"report": [name]}, environ={}, ini={}, root=root)
    summary = nothing(ProviderFacts("local", "18.1", "embedded", "copy", "asked for"))
    (written,) = write_reports(settings, summary, run="r")
    assert written.failure == ""
    assert "caf\\udce9" in (root / name).read_text()


@pytest.mark.parametrize(("length", "failure"), [(255, ""), (256, "File name too long")])
def test_a_long_name(tmp_path: Path, length: int, failure: str) -> None:
    """A report may have as long a name as the file system takes; a longer one is said, and leaves nothing."""
    name = "r" * (length - 5) + ".json"
    settings = resolve(options={"report": [name]}, environ={}, ini={}, root=tmp_path)
    summary = nothing(ProviderFacts("local", "18.1", "embedded", "copy", "asked for"))
    (written,) = write_reports(settings, summary, run="r")
    assert written.failure == failure
    assert entries(tmp_path) == ([] if failure else [name])
