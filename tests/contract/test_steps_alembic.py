"""What ``alembic:`` steps do with revisions, heads and env.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from migration_projects import ALEMBIC_INI, ENV_PY, alembic_project, alembic_revision
from step_servers import rows

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.steps.base import Workplace, migrations_of, units_of
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]

STEP = "alembic:alembic.ini"


@pytest.fixture
def place(embedded_server: object, tmp_path: Path) -> Workplace:
    """A fresh database."""
    made: Workplace = embedded_server.place(tmp_path)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """A project with two revisions."""
    folder = alembic_project(tmp_path)
    alembic_revision(folder, "a1", None, "CREATE TABLE item (id int)", undo="DROP TABLE item", doc="items")
    alembic_revision(folder, "b2", "a1", "ALTER TABLE item ADD price int", doc="price")
    return folder


def version(place: Workplace) -> list[str]:
    """What the database's book says."""
    return sorted(name for (name,) in rows(place, "SELECT version_num FROM alembic_version"))


def test_revisions_are_units_in_their_order(versions: Path, place: Workplace) -> None:
    """Each revision is a migration with its revision, name and file, and whether it can be undone."""
    step = parse(STEP, root=place.root)
    first, second = migrations_of(step)
    assert (first.revision, first.name, first.source.name) == ("a1", "items", "a1_items.py")
    assert (first.reversible, second.reversible) == (True, False)
    assert first.apply(place) == "1 migration"
    assert version(place) == ["a1"]
    assert second.apply(place) == "1 migration"
    assert second.apply(place) == "0 migrations"
    with pytest.raises(BaseError, match=r"alembic:alembic.ini b2 is declared irreversible in migrations/versions/b2"):
        second.rollback(place)


def test_rollback(versions: Path, place: Workplace) -> None:
    """A revision is undone where it was the last."""
    step = parse(STEP, root=place.root)
    migrations_of(step)[0].apply(place)
    assert migrations_of(step)[0].rollback(place) == "1 migration"
    assert version(place) == []
    assert rows(place, "SELECT to_regclass('item')") == [(None,)]


def test_several_heads_are_named(versions: Path, place: Workplace) -> None:
    """Without a revision there is no telling which one is meant; with @heads all are."""
    alembic_revision(versions, "c3", "a1", "ALTER TABLE item ADD colour text", doc="colour")
    with pytest.raises(ConfigError) as caught:
        units_of(parse(STEP, root=place.root))
    assert "there are 2 heads: " in str(caught.value)
    assert "b2 (b2_price.py)" in str(caught.value)
    assert "c3 (c3_colour.py)" in str(caught.value)
    parse(f"{STEP}@heads", root=place.root).apply(place)
    assert version(place) == ["b2", "c3"]


def test_revision_in_the_step(versions: Path, place: Workplace) -> None:
    """@REVISION is where the upgrade ends."""
    parse(f"{STEP}@a1", root=place.root).apply(place)
    assert version(place) == ["a1"]


def test_merged_branches_are_applied_in_one_order(versions: Path, place: Workplace) -> None:
    """A merge comes after both of its parents, whatever is applied at once."""
    alembic_revision(versions, "c3", "a1", "ALTER TABLE item ADD colour text")
    alembic_revision(versions, "d4", ("b2", "c3"))
    step = parse(STEP, root=place.root)
    assert [one.revision for one in migrations_of(step)][0::3] == ["a1", "d4"]
    with step.open():  # type: ignore[attr-defined]
        assert step.apply_units(0, 2, place) == "2 migrations"  # type: ignore[attr-defined]
        assert step.apply_units(2, 2, place) == "2 migrations"  # type: ignore[attr-defined]
    assert version(place) == ["d4"]


def test_database_that_has_some_already(versions: Path, place: Workplace) -> None:
    """What an earlier step brought along, such as a dump, is not applied again."""
    step = parse(STEP, root=place.root)
    migrations_of(step)[0].apply(place)
    assert step.apply(place) == "1 migration"


def test_database_ahead_of_the_code(versions: Path, place: Workplace) -> None:
    """A revision that the database has and the code has not is named."""
    parse(STEP, root=place.root).apply(place)
    (versions / "b2_price.py").unlink()
    with pytest.raises(BaseError, match=r"database is ahead of the code: it has revision b2 applied"):
        parse(STEP, root=place.root).apply(place)


@pytest.mark.parametrize(
    ("revision", "down", "says"),
    [("c3", "nowhere", "nowhere"), ("b2", "a1", "is present more than once")],
)
def test_broken_graph(versions: Path, place: Workplace, revision: str, down: str, says: str) -> None:
    """A revision that follows one that is not there, or that is there twice, is named."""
    alembic_revision(versions, revision, down, doc="broken")
    with pytest.raises(ConfigError) as caught:
        units_of(parse(STEP, root=place.root))
    assert str(caught.value).startswith("alembic:alembic.ini: the revisions do not fit together: ")
    assert says in str(caught.value)


def test_failure_names_the_revision_and_the_statement(versions: Path, place: Workplace) -> None:
    """The message leads to the line of the revision's file, and says what the server said."""
    alembic_revision(versions, "c3", "b2", "CREATE TABLE item (id int)")
    with pytest.raises(BaseError) as caught:
        parse(STEP, root=place.root).apply(place)
    assert str(caught.value).startswith("alembic:alembic.ini failed at migrations/versions/c3_change.py:9:")
    assert 'DuplicateTable: relation "item" already exists' in str(caught.value)
    assert "statement:\n    CREATE TABLE item (id int)" in str(caught.value)


def test_missing_extension_is_explained(versions: Path, place: Workplace) -> None:
    """What the server lacks is named, with where it can be had."""
    alembic_revision(versions, "c3", "b2", "CREATE EXTENSION postgis")
    with pytest.raises(BaseError, match="has no extension postgis"):
        parse(STEP, root=place.root).apply(place)


def test_env_that_connects_elsewhere_is_stopped(tmp_path: Path, place: Workplace) -> None:
    """env.py with an engine of its own does not reach the server that it names."""
    env = ENV_PY.replace(
        "engine = engine_from_config(settings,", "engine = engine_from_config({'sqlalchemy.url': MINE},"
    ).replace("def run():", "MINE = 'postgresql+psycopg://me@production.invalid/shop'\n\ndef run():")
    alembic_revision(alembic_project(tmp_path, env=env), "a1", None, "SELECT 1")
    with pytest.raises(BaseError, match=r"env.py connects to production.invalid, not to the branch"):
        parse(STEP, root=tmp_path).apply(place)


def test_env_that_takes_the_url_of_the_environment(tmp_path: Path, place: Workplace) -> None:
    """DATABASE_URL leads to the branch while migrations run, whatever it was before."""
    env = ENV_PY.replace(
        "settings = context.config.get_section(context.config.config_ini_section)",
        "import os; settings = {'sqlalchemy.url': os.environ['DATABASE_URL'].replace('ql:', 'ql+psycopg:')}",
    )
    alembic_revision(alembic_project(tmp_path, env=env), "a1", None, "CREATE TABLE item (id int)")
    parse(STEP, root=tmp_path).apply(place)
    assert rows(place, "SELECT count(*) FROM item") == [(0,)]


def test_application_that_needs_a_variable(tmp_path: Path, place: Workplace) -> None:
    """A migration that imports code which reads a variable gets the advice to name it."""
    (tmp_path / "shop_settings.py").write_text("import os\nURL = os.environ['SHOP_DATABASE']\n")
    file = alembic_revision(alembic_project(tmp_path), "a1", None, "SELECT 1")
    file.write_text(file.read_text().replace("from alembic", "import shop_settings\nfrom alembic"))
    with pytest.raises(BaseError) as caught:
        parse(STEP, root=tmp_path).apply(place)
    assert "failed at shop_settings.py:2" in str(caught.value)
    assert "lakebranch_env = SHOP_DATABASE" in str(caught.value)


def test_edited_revision_has_another_fingerprint(versions: Path, place: Workplace) -> None:
    """Only that of the edited revision changes, and that of all when env.py does."""
    step = parse(STEP, root=place.root)
    before = [unit.fingerprint() for unit in units_of(step)]
    file = versions / "b2_price.py"
    file.write_text(file.read_text().replace("price int", "price numeric"))
    after = [unit.fingerprint() for unit in units_of(step)]
    assert after[0] == before[0]
    assert after[1] != before[1]
    (place.root / "migrations" / "env.py").write_text(ENV_PY + "\n# more\n")
    assert units_of(step)[0].fingerprint() != before[0]


def test_what_all_revisions_depend_on(versions: Path, tmp_path: Path) -> None:
    """The fingerprint changes with alembic.ini, and with the libraries and their versions."""
    step: Any = parse(STEP, root=tmp_path)
    found = [step.fingerprint()]
    (tmp_path / "alembic.ini").write_text(ALEMBIC_INI + "\n# edited\n")
    found.append(step.fingerprint())
    step.kit = replace(step.kit, distributions=(*step.kit.distributions, "psycopg"))
    assert len({*found, step.fingerprint()}) == 3
