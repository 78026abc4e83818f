"""Some 100,000 rows of a year's trade, the same ones every time.

Faker gives the names; because it is slow, each kind of name is drawn from a small pool.  COPY brings the rows in.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from faker import Faker
from psycopg.types.json import Json
from psycopg.types.range import DateRange

SEED = 20240301
YEAR = date(2024, 1, 1)
WAREHOUSES = {"L": "London", "R": "Rotterdam", "G": "Gdańsk", "H": "Hamburg"}
"""Hamburg opens next season: its bays are empty."""

PRODUCTS = 1_200
CUSTOMERS = 1_500
ORDERS = 9_000
UNITS = 30_000
UNREADABLE_LABELS = range(1_500, UNITS, 2_400)
"""The units whose label nobody can read any more."""

Row = Sequence[Any]


def load(conn: psycopg.Connection[Any]) -> None:
    """Fill an empty schema: the callable that ``lakebranch_base`` names."""
    conn.execute("ALTER TABLE stock_movements DISABLE TRIGGER movement_is_booked")  # the stock comes ready made
    for table, rows in Trade().tables():
        with conn.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as out:
            for row in rows:
                out.write_row(row)
    conn.execute("ALTER TABLE stock_movements ENABLE TRIGGER movement_is_booked")
    conn.execute("REFRESH MATERIALIZED VIEW stock_value")


class Movement(NamedTuple):
    """One row of stock_movements."""

    kind: str
    product: int
    source: int | None
    target: int | None
    quantity: int
    moved_at: datetime


class Trade:
    """Makes the rows, table by table, and keeps the books while it does."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        fake = Faker("en_GB")
        fake.seed_instance(SEED)
        self.companies = [fake.company() for _ in range(60)]
        self.people = [fake.name() for _ in range(300)]
        self.cities = [fake.city() for _ in range(40)]
        self.colours = [fake.color_name() for _ in range(60)]
        self.locations = [
            f"{letter}{aisle:02}{bay:02}" for letter in WAREHOUSES for aisle in range(1, 11) for bay in range(1, 19)
        ]
        self.in_use = [n for n, code in enumerate(self.locations, 1) if not code.startswith("H")]
        self.prices = [round(self.random.uniform(2, 400), 2) for _ in range(PRODUCTS)]
        self.on_hand: dict[tuple[int, int], int] = {}
        self.reserved: dict[tuple[int, int], int] = {}
        self.orders: list[Row] = []
        self.order_lines: list[Row] = []
        self.reservations: list[Row] = []
        self.movements: list[Movement] = []

    def tables(self) -> Iterator[tuple[str, Iterable[Row]]]:
        """Each table with its columns, and its rows, in an order that foreign keys allow.

        Identity columns are left out: PostgreSQL numbers the rows as they come, and so do we.
        """
        self.receive()
        self.move()
        self.sell()
        self.movements.sort(key=lambda movement: movement.moved_at)
        stock = ((*key, pieces, self.reserved.get(key, 0)) for key, pieces in self.on_hand.items())
        yield "suppliers (name, email, city)", self.suppliers()
        yield "categories (parent_id, name)", self.categories()
        yield "products (sku, name, category_id, supplier_id, unit_price, reorder_level, attributes)", self.products()
        yield "price_lists (name, valid)", [("list 2024", DateRange(YEAR, date(2025, 1, 1)))]
        yield "prices (price_list_id, product_id, price)", [(1, n, price) for n, price in enumerate(self.prices, 1)]
        yield "warehouses (name)", [(name,) for name in WAREHOUSES.values()]
        yield "locations (code, warehouse_id, kind, capacity)", self.bays()
        yield "stock (product_id, location_id, on_hand, reserved)", stock
        yield "stock_movements (kind, product_id, source_id, target_id, quantity, moved_at)", self.movements
        yield "units (product_id, inventory_code, received_on)", self.units()
        yield "customers (name, email, city)", self.customers()
        yield "orders (customer_id, status, ordered_at)", self.orders
        yield "order_lines (order_id, product_id, quantity, unit_price)", self.order_lines
        yield "reservations (order_id, product_id, location_id, quantity)", self.reservations

    def suppliers(self) -> Iterator[Row]:
        for number, name in enumerate(self.companies, 1):
            yield name, f"orders@supplier-{number}.example", self.random.choice(self.cities)

    def categories(self) -> Iterator[Row]:
        for name in ("Lighting", "Furniture", "Kitchen", "Garden", "Tools", "Textiles"):
            yield None, name
        for number in range(7, 31):
            yield (number - 1) % 6 + 1, f"{self.colours[number]} {number}"

    def products(self) -> Iterator[Row]:
        for number, price in enumerate(self.prices, 1):
            colour = self.random.choice(self.colours)
            name = f"{colour} {self.random.choice(('lamp', 'chair', 'shelf', 'spade', 'kettle', 'rug'))}"
            attributes = Json({"colour": colour, "weight_g": self.random.randrange(50, 20_000, 50)})
            category, supplier = self.random.randint(7, 30), self.random.randint(1, len(self.companies))
            yield f"P{number:05}", name, category, supplier, price, self.random.randint(20, 200), attributes

    def bays(self) -> Iterator[Row]:
        for code in self.locations:
            kind = "dock" if code.endswith("01") else "bulk" if code.endswith(("02", "03", "04")) else "pick"
            yield code, [*WAREHOUSES].index(code[0]) + 1, kind, 500 if code[0] == "H" else 20_000

    def customers(self) -> Iterator[Row]:
        for number in range(1, CUSTOMERS + 1):
            yield self.random.choice(self.people), f"c{number}@customer.example", self.random.choice(self.cities)

    def receive(self) -> None:
        """Two deliveries of every product to each of a few bays, in the first months."""
        for product in range(1, PRODUCTS + 1):
            for location in self.random.sample(self.in_use, k=self.random.randint(3, 5)):
                for _ in range(2):
                    pieces = self.random.randint(10, 60)
                    self.book(Movement("receipt", product, None, location, pieces, self.when(0, 90)))

    def move(self) -> None:
        """Some of it goes from bay to bay afterwards."""
        for product, source in self.random.sample(sorted(self.on_hand), k=2_500):
            target = self.random.choice(self.in_use)
            if target != source:
                pieces = self.random.randint(1, 15)
                self.book(Movement("move", product, source, target, pieces, self.when(91, 120)))

    def sell(self) -> None:
        """The orders of the rest of the year: most of them shipped, the youngest still open."""
        bays: dict[int, list[int]] = {}
        for product, location in self.on_hand:
            bays.setdefault(product, []).append(location)
        for order in range(1, ORDERS + 1):
            ordered_at = self.when(121, 360)
            status = self.random.choices(("shipped", "reserved", "open", "cancelled"), weights=(85, 4, 6, 5))[0]
            self.orders.append((self.random.randint(1, CUSTOMERS), status, ordered_at))
            for product in self.random.sample(range(1, PRODUCTS + 1), k=self.random.randint(1, 4)):
                self.sell_line(order, status, product, self.random.choice(bays[product]), ordered_at)

    def sell_line(self, order: int, status: str, product: int, location: int, ordered_at: datetime) -> None:
        key = (product, location)
        free = self.on_hand[key] - self.reserved.get(key, 0)
        quantity = min(self.random.randint(1, 4), free)
        if quantity == 0:
            return
        self.order_lines.append((order, product, quantity, self.prices[product - 1]))
        if status == "shipped":
            self.book(Movement("shipment", product, location, None, quantity, ordered_at + timedelta(days=1)))
        elif status == "reserved":
            self.reserved[key] = self.reserved.get(key, 0) + quantity
            self.reservations.append((order, product, location, quantity))

    def book(self, movement: Movement) -> None:
        """Add a movement, and its effect on the stock."""
        self.movements.append(movement)
        if movement.source:
            self.on_hand[movement.product, movement.source] -= movement.quantity
        if movement.target:
            key = (movement.product, movement.target)
            self.on_hand[key] = self.on_hand.get(key, 0) + movement.quantity

    def units(self) -> Iterator[Row]:
        """Tracked units: serial number = unit_id, batch = week of receipt; one label in a hundred is irregular."""
        for unit in range(1, UNITS + 1):
            received_on = YEAR + timedelta(days=self.random.randint(0, 89))
            year, week, _ = received_on.isocalendar()
            location = self.locations[self.random.choice(self.in_use) - 1]
            code = self.label(unit, location, f"B{year % 100}{week:02}", f"{unit:06}")
            yield self.random.randint(1, PRODUCTS), code, received_on

    def label(self, unit: int, location: str, batch: str, serial: str) -> str:
        """What a unit's label says, in the way of the printer, the hand or the year that made it."""
        regular = f"{location}-{batch}-{serial}"
        if unit in UNREADABLE_LABELS:
            return f"{location}-?????-{serial}"
        if self.random.random() >= 0.01:
            return regular
        return self.random.choice(
            (
                regular.lower(),  # typed by hand
                f"  {regular} ",  # from a spreadsheet
                f"{location[:3]}-{location[3:]}-{batch}-{serial}",  # the first printer: L03-07
                regular.replace("-", "/"),  # the second one
                f"{regular}-R",  # refurbished
                f"{location}--{serial}",  # its batch was not recorded
                f"{serial}@{location}",  # before there were batches
            )
        )

    def when(self, first_day: int, last_day: int) -> datetime:
        """A moment between two days of the year."""
        minutes = self.random.randint(first_day * 1440, last_day * 1440)
        return datetime(YEAR.year, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
