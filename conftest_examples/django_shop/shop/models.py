"""Products, of which there are so many in stock, and orders for them."""

from django.db import models, transaction


class SoldOutError(Exception):
    """There is not as much in stock as was ordered."""


class Product(models.Model):
    """Something that can be bought."""

    name = models.CharField(max_length=100, unique=True)
    stock = models.PositiveIntegerField(default=0)
    price = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    def order(self, quantity: int) -> "Order":
        """Take ``quantity`` out of the stock; all or nothing."""
        with transaction.atomic():
            product = Product.objects.select_for_update().get(pk=self.pk)
            if product.stock < quantity:
                raise SoldOutError(product.name)
            product.stock -= quantity
            product.save()
            placed = Order.objects.create(product=product, quantity=quantity, total=product.price * quantity)
            transaction.on_commit(lambda: Notice.objects.create(text=f"order {placed.pk} was placed"))
        return placed


class Order(models.Model):
    """So many pieces of one product."""

    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveIntegerField()
    total = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        """Who may refund is a matter of its own."""

        permissions = [("refund_order", "Can refund an order")]


class Notice(models.Model):
    """Something that is to be sent by mail once the transaction is through."""

    text = models.TextField()
