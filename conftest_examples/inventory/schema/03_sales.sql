-- Who wants the goods.

CREATE TYPE order_status AS ENUM ('open', 'reserved', 'shipped', 'cancelled');

CREATE TABLE customers (
    customer_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    email       text NOT NULL UNIQUE,
    city        text NOT NULL
);

CREATE TABLE orders (
    order_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id integer NOT NULL REFERENCES customers,
    status      order_status NOT NULL DEFAULT 'open',
    ordered_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX orders_of_customer ON orders (customer_id);
CREATE INDEX orders_to_do ON orders (ordered_at) WHERE status IN ('open', 'reserved');

CREATE TABLE order_lines (
    order_id   integer REFERENCES orders ON DELETE CASCADE,
    product_id integer REFERENCES products,
    quantity   integer NOT NULL CHECK (quantity > 0),
    unit_price numeric(10, 2) NOT NULL CHECK (unit_price >= 0),
    PRIMARY KEY (order_id, product_id)
);

CREATE INDEX order_lines_of_product ON order_lines (product_id);

CREATE TABLE reservations (
    order_id    integer,
    product_id  integer,
    location_id integer,
    quantity    integer NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (order_id, product_id, location_id),
    FOREIGN KEY (order_id, product_id) REFERENCES order_lines,
    FOREIGN KEY (product_id, location_id) REFERENCES stock
);
