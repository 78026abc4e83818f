-- Where the goods lie.  Every change of the stock is a row of stock_movements; a trigger (04) keeps stock in step.

CREATE TYPE location_kind AS ENUM ('dock', 'bulk', 'pick');
CREATE TYPE movement_kind AS ENUM ('receipt', 'move', 'shipment', 'adjustment');

CREATE TABLE warehouses (
    warehouse_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE
);

CREATE TABLE locations (
    location_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    code         text NOT NULL UNIQUE CHECK (code ~ '^[A-Z]\d{4}$'),   -- warehouse, aisle, bay: L0307
    warehouse_id integer NOT NULL REFERENCES warehouses,
    kind         location_kind NOT NULL,
    capacity     integer NOT NULL CHECK (capacity > 0)
);

CREATE TABLE stock (
    product_id  integer REFERENCES products,
    location_id integer REFERENCES locations,
    on_hand     integer NOT NULL CHECK (on_hand >= 0),
    reserved    integer NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand),
    PRIMARY KEY (product_id, location_id)
);

CREATE INDEX stock_by_location ON stock (location_id);

CREATE TABLE stock_movements (
    movement_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind        movement_kind NOT NULL,
    product_id  integer NOT NULL REFERENCES products,
    source_id   integer REFERENCES locations,
    target_id   integer REFERENCES locations,
    quantity    integer NOT NULL CHECK (quantity > 0),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    note        text NOT NULL DEFAULT '',
    CHECK (source_id <> target_id),
    CHECK (CASE kind
        WHEN 'receipt' THEN source_id IS NULL AND target_id IS NOT NULL
        WHEN 'move' THEN source_id IS NOT NULL AND target_id IS NOT NULL
        WHEN 'shipment' THEN source_id IS NOT NULL AND target_id IS NULL
        WHEN 'adjustment' THEN num_nonnulls(source_id, target_id) = 1
    END)
);

CREATE INDEX stock_movements_of_product ON stock_movements (product_id, moved_at);

-- Valuable goods are also tracked one by one.  The code is what the label says: location, batch and serial number.
CREATE TABLE units (
    unit_id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product_id     integer NOT NULL REFERENCES products,
    inventory_code text NOT NULL UNIQUE,
    received_on    date NOT NULL
);

CREATE INDEX units_of_product ON units (product_id);
