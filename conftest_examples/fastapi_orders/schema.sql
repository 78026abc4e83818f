CREATE TABLE item (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, stock int NOT NULL CHECK (stock >= 0));
CREATE TABLE purchase (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item_id int NOT NULL REFERENCES item, quantity int NOT NULL);
INSERT INTO item (name, stock) SELECT 'item ' || n, 10 FROM generate_series(1, 500) n;
