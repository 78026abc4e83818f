-- What we trade in, where it comes from and what it costs.

CREATE TABLE suppliers (
    supplier_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL,
    email       text NOT NULL CHECK (email LIKE '%@%'),
    city        text NOT NULL
);

CREATE TABLE categories (
    category_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent_id   integer REFERENCES categories,
    name        text NOT NULL UNIQUE
);

CREATE TABLE products (
    product_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku           text NOT NULL UNIQUE CHECK (sku = upper(sku) AND sku <> ''),
    name          text NOT NULL,
    category_id   integer NOT NULL REFERENCES categories,
    supplier_id   integer NOT NULL REFERENCES suppliers,
    unit_price    numeric(10, 2) NOT NULL CHECK (unit_price > 0),
    reorder_level integer NOT NULL DEFAULT 0 CHECK (reorder_level >= 0),
    attributes    jsonb NOT NULL DEFAULT '{}'
);

CREATE INDEX products_by_category ON products (category_id);
CREATE INDEX products_by_attribute ON products USING gin (attributes jsonb_path_ops);

CREATE TABLE price_lists (
    price_list_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE,
    valid         daterange NOT NULL CHECK (NOT isempty(valid))
);

CREATE TABLE prices (
    price_list_id integer REFERENCES price_lists ON DELETE CASCADE,
    product_id    integer REFERENCES products,
    price         numeric(10, 2) NOT NULL CHECK (price > 0),
    PRIMARY KEY (price_list_id, product_id)
);
