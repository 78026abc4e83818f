"""The application through its routes, each test on a fresh branch; there is no conftest.py."""

import pytest
from fastapi.testclient import TestClient
from orders.api import app
from orders.database import engine
from sqlalchemy import text

client = TestClient(app)


@pytest.mark.parametrize("number", range(6))
def test_purchase_commits_and_is_forgotten(number):
    """Each test sees the stock of the base and the first number of the sequence."""
    answer = client.post("/purchases", json={"item": "item 7", "quantity": 10})
    assert answer.json() == {"purchase": 1, "left": 0}
    assert client.post("/purchases", json={"item": "item 7", "quantity": 1}).status_code == 409
    assert client.get("/purchases/count").json() == 1


def test_unknown_item():
    """There are 500 items."""
    assert client.get("/items/item 500").json() == {"name": "item 500", "stock": 10}
    assert client.get("/items/item 501").status_code == 404


def test_refused_purchase_changes_nothing():
    """More than there is cannot be bought."""
    assert client.post("/purchases", json={"item": "item 1", "quantity": 11}).status_code == 409
    assert client.get("/items/item 1").json()["stock"] == 10


def test_the_engine_of_the_application_may_change_the_schema():
    """What a test does to tables is gone for the next."""
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE purchase"))
    with pytest.raises(Exception, match="does not exist"):
        client.get("/purchases/count")


def test_next_one_has_the_table_again():
    """The pool of the application holds no connection that leads to the past."""
    assert client.get("/purchases/count").json() == 0
