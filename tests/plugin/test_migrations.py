"""Projects with migration tools under pytest: built once, one migration more, nothing left behind."""

from __future__ import annotations

import json

import pytest

from tests.contract.migration_projects import (
    ENV_PY,
    alembic_project,
    alembic_revision,
    django_migration,
    django_project,
)
from tests.plugin.conftest import Project

TEST = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(lakebranch_conn, number):
    columns = lakebranch_conn.execute("select * from item").description
    open("columns", "w").write(" ".join(column.name for column in columns))
"""


def steps_of(project: Project, *options: str) -> list[str]:
    """What a run with two workers built its base from; none when it came from the cache."""
    project.spawn("-n", "2", "--lakebranch-report=report.json", *options).assert_outcomes(passed=4)
    report = json.loads((project.path / "report.json").read_text())
    return [step for base in report["bases"] for step in base["steps"]]


@pytest.fixture(autouse=True)
def tests(project: Project) -> None:
    """Each project has tests that look at the table."""
    project.write(test_it=TEST)


@pytest.mark.soak
def test_alembic(project: Project) -> None:
    """The second run builds nothing, a further revision runs alone, and going back to the older code builds nothing."""
    versions = alembic_project(project.path)
    alembic_revision(versions, "a1", None, "CREATE TABLE item (id int)")
    alembic_revision(versions, "b2", "a1", "ALTER TABLE item ADD name text")
    project.ini(lakebranch_base="alembic:alembic.ini", lakebranch_env="DATABASE_URL")
    assert steps_of(project) == ["alembic:alembic.ini"]
    assert steps_of(project) == []
    newest = alembic_revision(versions, "c3", "b2", "ALTER TABLE item ADD price int")
    assert steps_of(project) == ["alembic:alembic.ini (1 of 3)"]
    assert (project.path / "columns").read_text() == "id name price"
    newest.unlink()
    assert steps_of(project) == []
    assert (project.path / "columns").read_text() == "id name"


@pytest.mark.soak
def test_django(project: Project) -> None:
    """The same with Django, whose settings read the application's variables."""
    shop = django_project(project.path, "site_d", "a_shop") / "a_shop"  # comes first in the order of migrate
    django_migration(shop, "0001_initial", [], "CREATE TABLE item (id int)")
    settings = project.path / "site_d" / "settings.py"
    settings.write_text(settings.read_text() + "\nDATABASES['default']['HOST'] = os.environ['DB_HOST']\n")
    project.ini(lakebranch_base="django:site_d.settings", lakebranch_env="DB_HOST={host}")
    assert steps_of(project) == ["django:site_d.settings"]
    django_migration(shop, "0002_name", [("a_shop", "0001_initial")], "ALTER TABLE item ADD name text")
    (step,) = steps_of(project)
    assert step.startswith("django:site_d.settings (2 of ")  # the new one, and what follows the last
    assert steps_of(project) == []
    assert (project.path / "columns").read_text() == "id name"


@pytest.mark.soak
def test_alembic_with_a_port(project: Project) -> None:
    """An env.py that takes the application's variable works on a loopback port too, also when it is tried out."""
    url = "os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+psycopg:')"
    wanted = f"import os\n    engine = sqlalchemy.create_engine({url}, poolclass=pool.NullPool)"
    env = ENV_PY.replace('engine = engine_from_config(settings, prefix="sqlalchemy.", poolclass=pool.NullPool)', wanted)
    versions = alembic_project(project.path, env=env.replace("import asyncio", "import asyncio\n\nimport sqlalchemy"))
    alembic_revision(versions, "a1", None, "CREATE TABLE item (id int)")
    project.ini(lakebranch_base="alembic:alembic.ini", lakebranch_env="DATABASE_URL", lakebranch_listen="tcp")
    result = project.spawn("--lakebranch-check-migrations", "-k", "0 or applies")
    result.assert_outcomes(passed=2)


@pytest.mark.soak
def test_lock_that_is_never_given_back(project: Project) -> None:
    """A step that waits for a connection of the project itself ends, and every worker is told why."""
    project.write(
        seed="""
        import os, psycopg

        def load(conn):
            conn.execute("create table item ()")
            conn.commit()
            with psycopg.connect(os.environ["DATABASE_URL"]) as other:
                other.execute("lock item")
                conn.execute("alter table item add id int")
        """
    )
    project.ini(
        lakebranch_base="python:seed:load", lakebranch_env="DATABASE_URL", lakebranch_lock_timeout="1s", pythonpath="."
    )
    result = project.spawn("-n", "2")
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        ["*python:seed:load waited for a lock for 1 s with", "*alter table item add id int", "*lock item"]
    )
