"""What ``django:`` steps do with applications, their migrations and what follows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from migration_projects import django_migration, django_project
from step_servers import rows

from pytest_lakebranch.errors import BaseError, ConfigError
from pytest_lakebranch.steps.base import Workplace, migrations_of, units_of
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]

STEP = "django:site_a.settings"
SHOP, STOCK = "shop", "stock"


@pytest.fixture
def place(embedded_server: object, tmp_path: Path) -> Workplace:
    """A fresh database."""
    made: Workplace = embedded_server.place(tmp_path)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two applications, one of which depends on the other."""
    folder = django_project(tmp_path, "site_a", SHOP, STOCK)
    django_migration(folder / SHOP, "0001_initial", [], "CREATE TABLE item (id int)", "DROP TABLE item")
    django_migration(folder / SHOP, "0002_price", [(SHOP, "0001_initial")], "ALTER TABLE item ADD price int")
    django_migration(
        folder / STOCK, "0001_initial", [(SHOP, "0001_initial")], "CREATE TABLE level (n int)", "DROP TABLE level"
    )
    return folder


def applied(place: Workplace) -> set[str]:
    """What the database's book says of our applications."""
    found = rows(place, "SELECT app || '.' || name FROM django_migrations WHERE app IN ('shop', 'stock')")
    return {name for (name,) in found}


def test_migrations_are_units_and_something_follows(project: Path, place: Workplace) -> None:
    """Each migration of each application is one; content types and permissions come with the unit behind them."""
    step = parse(STEP, root=place.root)
    ours = [found for found in migrations_of(step) if found.revision.startswith(("shop.", "stock."))]
    assert [found.revision for found in ours] == ["shop.0001_initial", "shop.0002_price", "stock.0001_initial"]
    assert [found.reversible for found in ours] == [True, False, True]
    assert (ours[1].name, ours[1].source) == ("price", project / "shop" / "migrations" / "0002_price.py")
    assert len(units_of(step)) == len(migrations_of(step)) + 1
    step.apply(place)
    assert applied(place) == {"shop.0001_initial", "shop.0002_price", "stock.0001_initial"}
    assert rows(place, "SELECT count(*) > 0 FROM auth_permission") == [(True,)]


def test_some_at_a_time(project: Path, place: Workplace) -> None:
    """Units that are applied one after the other give the same as all at once."""
    step = parse(STEP, root=place.root)
    with step.open():  # type: ignore[attr-defined]
        for number in range(len(units_of(step))):
            step.apply_units(number, 1, place)  # type: ignore[attr-defined]
    assert len(applied(place)) == 3
    assert rows(place, "SELECT count(*) > 0 FROM auth_permission") == [(True,)]
    assert step.apply(place) == "0 migrations"


def test_rollback(project: Path, place: Workplace) -> None:
    """A migration is undone where nothing depends on it; an irreversible one is named."""
    step = parse(STEP, root=place.root)
    step.apply(place)
    of = {found.revision: found for found in migrations_of(step)}
    of["stock.0001_initial"].rollback(place)
    assert rows(place, "SELECT to_regclass('level')") == [(None,)]
    assert "stock.0001_initial" not in applied(place)
    with pytest.raises(BaseError, match=r"shop.0002_price is declared irreversible"):
        of["shop.0002_price"].rollback(place)


def test_several_heads_are_named(project: Path, place: Workplace) -> None:
    """Two migrations that follow the same one are named, with how to merge them."""
    django_migration(project / SHOP, "0002_colour", [(SHOP, "0001_initial")], "SELECT 1")
    with pytest.raises(ConfigError, match=r"several heads: shop: 0002_colour, 0002_price. Merge them"):
        units_of(parse(STEP, root=place.root))


def test_broken_graph(project: Path, place: Workplace) -> None:
    """A migration that follows one that is not there is named."""
    django_migration(project / SHOP, "0003_more", [(SHOP, "0002_gone")], "SELECT 1")
    with pytest.raises(ConfigError, match=r"do not fit together: .*0003_more.*0002_gone"):
        units_of(parse(STEP, root=place.root))


def test_database_ahead_of_the_code(project: Path, place: Workplace) -> None:
    """A migration that the database has and the code has not is named."""
    parse(STEP, root=place.root).apply(place)
    (project / "shop" / "migrations" / "0002_price.py").unlink()
    with pytest.raises(BaseError, match=r"ahead of the code: it has shop.0002_price applied"):
        parse(STEP, root=place.root).apply(place)


def test_failure_names_the_migration_and_the_statement(project: Path, place: Workplace) -> None:
    """The message leads to the migration's file, though no line of it was at work."""
    django_migration(project / SHOP, "0003_again", [(SHOP, "0002_price")], "CREATE TABLE item (id int)")
    with pytest.raises(BaseError) as caught:
        parse(STEP, root=place.root).apply(place)
    assert str(caught.value).startswith(f"{STEP} failed at site_a/shop/migrations/0003_again.py:")
    assert 'relation "item" already exists' in str(caught.value)
    assert "statement:\n    CREATE TABLE item (id int)" in str(caught.value)


def test_settings_that_read_a_variable(project: Path, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What settings read is known: another value is another plan; a missing one is explained."""
    settings = project / "settings.py"
    settings.write_text(settings.read_text() + "\nif os.environ['WITH'] == 'less':\n    INSTALLED_APPS.pop()\n")
    with pytest.raises(BaseError, match="lakebranch_env = WITH"):
        units_of(parse(STEP, root=place.root))
    step = parse(STEP, root=place.root)
    monkeypatch.setenv("WITH", "more")
    more = len(units_of(step))
    monkeypatch.setenv("WITH", "less")
    assert len(units_of(step)) == more - 1


def test_other_database_is_not_reached(project: Path, place: Workplace) -> None:
    """A migration that uses a second database of the settings does not get to the server they name."""
    settings = project / "settings.py"
    settings.write_text(settings.read_text() + "\nDATABASES['other'] = {**DATABASES['default'], 'HOST': '127.0.0.1'}\n")
    file = django_migration(project / SHOP, "0003_other", [(SHOP, "0002_price")], "SELECT 1")
    file.write_text(
        file.read_text().replace("migrations.RunSQL('SELECT 1')", "migrations.RunPython(look)")
        + "\ndef look(*_):\n    from django.db import connections\n    connections['other'].cursor()\n"
    )
    file.write_text(file.read_text().replace("RunPython(look)", "RunPython(lambda *_: look())"))
    with pytest.raises(BaseError, match=r"db.no-other-database"):
        parse(STEP, root=place.root).apply(place)


def test_sqlite_is_refused(project: Path, place: Workplace) -> None:
    """Settings whose default database is no PostgreSQL cannot be led to a branch."""
    settings = project / "settings.py"
    settings.write_text(settings.read_text().replace("django.db.backends.postgresql", "django.db.backends.sqlite3"))
    with pytest.raises(ConfigError, match="is sqlite, not PostgreSQL"):
        units_of(parse(STEP, root=place.root))
