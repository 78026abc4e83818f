"""What the shop answers."""

from django.http import HttpRequest, JsonResponse

from shop.models import Product, SoldOutError


def products(request: HttpRequest) -> JsonResponse:
    """All products with what is left of them."""
    return JsonResponse({product.name: product.stock for product in Product.objects.order_by("name")})


def order(request: HttpRequest) -> JsonResponse:
    """Order something."""
    product = Product.objects.get(name=request.POST["product"])
    try:
        placed = product.order(int(request.POST["quantity"]))
    except SoldOutError as error:
        return JsonResponse({"sold out": str(error)}, status=409)
    return JsonResponse({"order": placed.pk, "total": str(placed.total)}, status=201)
