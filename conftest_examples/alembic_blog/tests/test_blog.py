"""The blog on a base that Alembic has migrated; there is no conftest.py."""

import pytest
from blog.models import Article, Author, Base, engine, publish, titles
from sqlalchemy import inspect
from sqlalchemy.orm import Session


@pytest.mark.parametrize("title", ["Notes", "Engines"])
def test_publish(title):
    """One draft more is seen, whatever other tests have published."""
    publish(title)
    assert titles() == sorted(["Looms", title])


def test_new_author():
    """Numbers go on where the base ends."""
    with Session(engine) as session, session.begin():
        session.add(Article(author=Author(name="grace"), title="Compilers", published=True))
        session.flush()
        assert session.query(Author).filter_by(name="grace").one().id == 2
    assert titles() == ["Compilers", "Looms"]


def test_migrations_make_what_models_say():
    """Columns of the database are those of the models."""
    for table in Base.metadata.tables.values():
        found = {column["name"] for column in inspect(engine).get_columns(table.name)}
        assert found == set(table.columns.keys())
