"""A state that several tests need, made once per worker: the fixture ``season`` seeds the worker's branch."""

import pytest


def price(conn, sku, price_list):
    row = conn.execute(
        "SELECT price FROM prices JOIN price_lists USING (price_list_id) JOIN products USING (product_id) "
        "WHERE sku = %s AND price_lists.name = %s",
        [sku, price_list],
    ).fetchone()
    return row[0] if row else None


def test_a_test_that_asks_for_the_season_has_its_prices(season, lakebranch_conn):
    old, new = price(lakebranch_conn, "P00001", "list 2024"), price(lakebranch_conn, "P00001", season)
    assert new == old + 1


def test_a_test_that_does_not_ask_has_not(lakebranch_conn):
    """Also when another test of this worker has asked before."""
    assert price(lakebranch_conn, "P00001", "season 2025") is None
    assert lakebranch_conn.execute("SELECT name FROM price_lists").fetchall() == [("list 2024",)]


@pytest.mark.parametrize("buyer", ["Ada", "Grace"])
def test_changes_stay_in_the_test(season, lakebranch, buyer):
    """Forked from the worker's branch, but a branch of its own: each of the two deletes the list."""
    with lakebranch.connect() as conn:
        assert price(conn, "P00001", season)
        conn.execute("DELETE FROM price_lists WHERE name = %s", [season])


@pytest.mark.destructive
def test_a_destructive_test_may_ask_too(season, lakebranch):
    with lakebranch.connect() as conn:
        assert price(conn, "P00001", season)
        conn.execute("DROP SCHEMA public CASCADE")
