"""What can go wrong in a warehouse."""


class InventoryError(Exception):
    """Base of all of them."""


class UnknownError(InventoryError):
    """There is no such product, location, order or unit."""


class OutOfStockError(InventoryError):
    """Fewer pieces are free than were asked for."""


class LocationFullError(InventoryError):
    """The goods do not fit into the location."""


class WrongStatusError(InventoryError):
    """The order is not in the status that this needs."""
