"""Prices, orders and notices."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """What it takes to sell."""

    dependencies = [("shop", "0002_catalogue")]
    operations = [
        migrations.AddField("product", "price", models.DecimalField(decimal_places=2, default=0, max_digits=10)),
        migrations.RunSQL("UPDATE shop_product SET price = 0.25", migrations.RunSQL.noop),
        migrations.CreateModel(
            name="Notice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("text", models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("quantity", models.PositiveIntegerField()),
                ("total", models.DecimalField(decimal_places=2, max_digits=10)),
                ("product", models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="shop.product")),
            ],
            options={"permissions": [("refund_order", "Can refund an order")]},
        ),
    ]
