"""The products that every shop begins with."""

from django.db import migrations


def fill(apps, schema_editor):
    """Three products."""
    product = apps.get_model("shop", "Product")
    product.objects.bulk_create(product(name=name, stock=10) for name in ("bolt", "nut", "washer"))


class Migration(migrations.Migration):
    """Data only."""

    dependencies = [("shop", "0001_initial")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
