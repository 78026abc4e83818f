"""The shop, as pytest-django tests it: its fixtures and marks work as ever, on branches."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, connections
from django.test import TestCase
from shop.models import Notice, Order, Product, SoldOutError


@pytest.mark.django_db
def test_catalogue(client):
    """What migrations put in is there."""
    assert client.get("/products").json() == {"bolt": 10, "nut": 10, "washer": 10}


def test_order(client, db):
    """An order takes from the stock."""
    answer = client.post("/orders", {"product": "bolt", "quantity": 4})
    assert (answer.status_code, answer.json()["total"]) == (201, "1.00")
    assert client.get("/products").json()["bolt"] == 6


def test_sold_out(client, db):
    """An order for more than there is changes nothing."""
    assert client.post("/orders", {"product": "bolt", "quantity": 11}).status_code == 409
    assert not Order.objects.exists()


@pytest.mark.parametrize("number", range(4))
def test_numbers_begin_anew(transactional_db, number):
    """Also what a sequence has given out is forgotten after a test that commits."""
    assert Product.objects.get(name="nut").order(1).pk == 1
    assert Notice.objects.get().text == "order 1 was placed"


@pytest.mark.django_db(transaction=True)
def test_last_pieces_are_sold_once():
    """Two customers at the same time, each in a transaction of their own."""

    def buy(_):
        try:
            return Product.objects.get(name="washer").order(10).quantity
        except SoldOutError:
            return 0
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as customers:
        assert sorted(customers.map(buy, range(2))) == [0, 10]


@pytest.mark.django_db(transaction=True)
def test_a_shop_that_is_emptied():
    """A test may do what it likes with its tables."""
    Product.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE shop_notice")
        cursor.execute("CREATE TABLE shop_notice (id bigserial PRIMARY KEY, text text)")


def test_permissions(db):
    """What handlers of post_migrate make is part of the base."""
    clerk = User.objects.create_user("clerk")
    clerk.user_permissions.add(Permission.objects.get(codename="refund_order"))
    assert clerk.has_perm("shop.refund_order")


def test_on_commit(db, django_capture_on_commit_callbacks):
    """Callbacks that wait for a commit can be captured."""
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        Product.objects.get(name="nut").order(1)
    assert len(callbacks) == 1
    assert Notice.objects.count() == 1


class Discounts(TestCase):
    """Django's own test classes, with data that is set up once for the class."""

    @classmethod
    def setUpTestData(cls):
        """One product more."""
        cls.lamp = Product.objects.create(name="lamp", stock=1, price=10)

    def test_class_data(self):
        """It is there."""
        assert self.lamp.order(1).total == 10

    def test_class_data_again(self):
        """It is there again."""
        assert Product.objects.count() == 4
        assert self.lamp.order(1).total == 10
