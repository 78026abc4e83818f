"""What is measured of migrations, and what lint makes of it, on each PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from migration_projects import django_project
from step_servers import Server, rows

from pytest_lakebranch.migrations import rules
from pytest_lakebranch.migrations.observation import Observation
from pytest_lakebranch.migrations.watch import Watch, watching
from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema.diff import SchemaDiff
from pytest_lakebranch.steps.base import Workplace, migrations_of
from pytest_lakebranch.steps.kinds import parse

pytest_plugins = ["step_fixtures"]

SHAPE = """
CREATE DOMAIN price AS int DEFAULT 1;
CREATE TABLE item (id int PRIMARY KEY, code text, size int NOT NULL DEFAULT 1, known text CHECK (known IS NOT NULL));
INSERT INTO item SELECT n, 'code ' || n, n, '' FROM generate_series(1, 5000) n;
CREATE MATERIALIZED VIEW codes AS SELECT id, code FROM item;
CREATE UNIQUE INDEX codes_id ON codes (id);
CREATE TABLE line (id int) PARTITION BY RANGE (id);
CREATE TABLE line_1 PARTITION OF line FOR VALUES FROM (0) TO (9);
CREATE TABLE event (id int NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (9);
INSERT INTO event VALUES (1), (2);
CREATE TABLE older (id int NOT NULL);
CREATE TABLE newer () INHERITS (older);
ANALYZE;
"""


def measured(place: Workplace, work: Callable[[], object]) -> Observation:
    """What some work does to a database."""
    watch = Watch()
    with watching(place.endpoint, watch):
        work()
    return watch.observation


def told(seen: Observation) -> list[str]:
    """What lint finds in what was measured."""
    return [str(one) for one in rules.findings(SchemaDiff("", "", ()), seen)]


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ("ALTER TABLE item ADD x int NOT NULL DEFAULT 1", ""),
        ("ALTER TABLE item ADD x price NOT NULL, ADD y int GENERATED ALWAYS AS IDENTITY", ""),
        ("ALTER TABLE item ADD x int NOT NULL DEFAULT 1; ALTER TABLE item ALTER x DROP DEFAULT", "x is new"),
        ("ALTER TABLE item ADD x int; UPDATE item SET x = 1; ALTER TABLE item ALTER x SET NOT NULL", ""),
        (
            "ALTER TABLE item ADD x int DEFAULT 1 CHECK (x IS NOT NULL); ALTER TABLE item ALTER x DROP DEFAULT",
            "x is new",
        ),
        ("ALTER TABLE line ADD x int NOT NULL", "x of public.line (0 rows) is new"),
        (
            "ALTER TABLE event ADD x int NOT NULL DEFAULT 1; ALTER TABLE event ALTER x DROP DEFAULT",
            "x of public.event (2 rows) is new",
        ),
        ("ALTER TABLE event ADD x int; UPDATE event SET x = 1; ALTER TABLE event ALTER x SET NOT NULL", ""),
        ("ALTER TABLE event DETACH PARTITION event_1", ""),
        ("ALTER TABLE newer NO INHERIT older", ""),
        (
            "ALTER TABLE item ADD x int NOT NULL DEFAULT 1; ALTER TABLE item ALTER x DROP DEFAULT;"
            "ALTER TABLE item ALTER size TYPE bigint",
            "x is new",
        ),
        ("ALTER TABLE item ADD x float NOT NULL DEFAULT random(); ALTER TABLE item ALTER x DROP DEFAULT", "x is new"),
        ("ALTER TABLE item ALTER code SET NOT NULL", "code may not be NULL any more"),
        ("ALTER TABLE item ALTER size DROP DEFAULT", "size may not be NULL any more, or has lost its default"),
        ("ALTER TABLE item ALTER known SET NOT NULL; ALTER TABLE item DROP CONSTRAINT item_known_check", ""),
        ("CREATE TABLE fresh (x int NOT NULL)", ""),
    ],
)
def test_columns_that_must_be_given_a_value(
    embedded_server: Server, tmp_path: Path, statements: str, says: str
) -> None:
    """What counts is how a column of a table that was there is in the end, and whether its rows were filled."""
    place = embedded_server.place(tmp_path)
    with connect(place.endpoint, autocommit=True) as conn:
        conn.execute(SHAPE)
        found = told(measured(place, lambda: conn.execute(statements)))
    of_columns = [text for text in found if text.startswith(rules.REQUIRED)]
    assert len(of_columns) == bool(says)
    assert all(says in text.replace("of public.item (5,000 rows) ", "") for text in of_columns)


@pytest.mark.parametrize(
    ("statement", "says", "advice"),
    [
        ("TRUNCATE item", "table-rewrite: all rows of public.item (TRUNCATE; 5,000 rows, *) were removed", "DELETE"),
        ("REFRESH MATERIALIZED VIEW codes", "table-rewrite: public.codes (REFRESH *) was filled anew", "CONCURRENTLY"),
        ("VACUUM FULL item", "table-rewrite: all rows of public.item (CLUSTER, VACUUM FULL or *; 5,000", "pg_repack"),
        ("ALTER TABLE item ALTER size TYPE bigint", "table-rewrite: all rows of public.item (another type; ", "column"),
        ("REINDEX TABLE item", "require-concurrent-reindex: public.item_pkey was built again while *", "REINDEX CONC"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY codes", "", ""),
        ("REINDEX TABLE CONCURRENTLY item", "", ""),
    ],
)
def test_what_was_written_again(place: Workplace, statement: str, says: str, advice: str) -> None:
    """Each cause is told by its name, with what to do instead of that."""
    with connect(place.endpoint, autocommit=True) as conn:
        conn.execute(SHAPE)
        found = told(measured(place, lambda: conn.execute(statement)))
    assert len(found) == bool(says)
    for text in found:
        pattern = pytest.LineMatcher(text.splitlines())
        pattern.fnmatch_lines([f"{says.replace('[', '[[]')}*", f"*{advice}*"])


MODELS = """
from django.db import models

class Item(models.Model):
    pass
"""
FIRST = """
from django.db import migrations, models

class Migration(migrations.Migration):
    operations = [migrations.CreateModel("Item", [("id", models.BigAutoField(primary_key=True))])]
"""
ADDS = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("shop", "{0}")]
    operations = [migrations.AddField("item", "{1}", models.IntegerField({2}))]
"""


def test_fields_of_django(embedded_server: Server, tmp_path: Path) -> None:
    """Django drops the default of a field again, which the version before would need; db_default stays."""
    place = embedded_server.place(tmp_path)
    shop = django_project(tmp_path, "site_l", "shop") / "shop"
    (shop / "models.py").write_text(MODELS)
    for name, text in {
        "0001_initial": FIRST,
        "0002_size": ADDS.format("0001_initial", "size", "default=1"),
        "0003_price": ADDS.format("0002_size", "price", "db_default=1"),
    }.items():
        (shop / "migrations" / f"{name}.py").write_text(text)
    step = parse("django:site_l.settings", root=tmp_path)
    with step.open():  # type: ignore[union-attr]
        *_, first, size, price = (one for one in migrations_of(step) if one.source.is_relative_to(shop))
        first.apply(place)
        (found,) = told(measured(place, lambda: size.apply(place)))
        assert found.startswith(
            "adding-required-field: column size of public.shop_item (0 rows) is new, may not be NULL"
        )
        assert told(measured(place, lambda: price.apply(place))) == []
    assert rows(place, "SELECT count(*) FROM pg_event_trigger") == [(0,)]
