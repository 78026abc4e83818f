"""From a running server to a migration that is judged: copied, migrated, tested, checked and compared in one run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_lakebranch.postgres.connect import connect
from pytest_lakebranch.schema.catalog import read
from pytest_lakebranch.steps.base import Workplace
from tests.plugin.conftest import Project

sys.path.append(str(Path(__file__).parents[1] / "contract"))
from step_servers import Server, rows, running

SHOP = """
CREATE ROLE clerk;
CREATE ROLE reader LOGIN;
CREATE ROLE copier LOGIN REPLICATION;
GRANT pg_read_all_data TO reader, copier;
CREATE TABLE product (id int PRIMARY KEY, name varchar(20) NOT NULL, price numeric(8, 2) NOT NULL);
CREATE TABLE stock (product int PRIMARY KEY REFERENCES product, pieces int NOT NULL CHECK (pieces >= 0));
INSERT INTO product SELECT n, 'product ' || n, n FROM generate_series(1, 1000) n;
INSERT INTO stock SELECT id, 10 FROM product;
GRANT SELECT, UPDATE ON product, stock TO clerk;
"""
EXPECTED = """\
1 added, 1 changed
~ column public.product.name
    type: character varying(20) → character varying(40)
+ column public.stock.place  text
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server elsewhere."""
    with running("embedded") as made:
        yield made


@pytest.fixture(scope="module")
def production(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A database there."""
    made = server.place(tmp_path_factory.mktemp("production"))
    with connect(made.endpoint) as conn:
        conn.execute(SHOP)
    return made


@pytest.mark.parametrize("role", ["reader", pytest.param("copier", marks=pytest.mark.soak)])
def test_from_production_to_a_judged_migration(
    project: Project, production: Workplace, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Tests see production's rows under the new schema, the migration is checked on them, the diff is with production
    itself, and that is as it was."""
    where = production.endpoint
    monkeypatch.setenv("PROD_URL", f"postgresql://{role}@/{where.dbname}?host={where.host}&port={where.port}")
    with connect(where, autocommit=True) as conn:
        before = read(conn)
    folder = project.path / "migrations"
    folder.mkdir()
    (folder / "0001_place.sql").write_text(
        "ALTER TABLE stock ADD IF NOT EXISTS place text; ALTER TABLE product ALTER name TYPE varchar(40);"
    )
    (folder / "0001_place.down.sql").write_text(
        "ALTER TABLE stock DROP place; ALTER TABLE product ALTER name TYPE varchar(20);"
    )
    project.write(
        test_it="""
        def test_sale(lakebranch_conn):
            sold = lakebranch_conn.execute("UPDATE stock SET pieces = pieces - 1, place = 'here' WHERE product < 11")
            assert sold.rowcount == 10
            assert lakebranch_conn.execute("SELECT count(*) FROM product").fetchone() == (1000,)
        """
    )
    project.ini(
        lakebranch_base=["postgres:PROD_URL", "sql:migrations"],
        lakebranch_database=where.dbname,
        lakebranch_user="clerk",
        lakebranch_check_migrations="true",
        lakebranch_schema_diff="diff.txt",
        lakebranch_schema_diff_from="env:PROD_URL",
    )
    project.spawn().assert_outcomes(passed=5)
    assert (project.path / "diff.txt").read_text() == EXPECTED
    with connect(where, autocommit=True) as conn:
        assert read(conn) == before
    assert rows(production, "SELECT sum(pieces) FROM stock") == [(10000,)]
