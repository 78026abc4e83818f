"""A schema with every kind of object."""

from __future__ import annotations

ROLES = """
DO $$ BEGIN
    CREATE ROLE clerk;
    CREATE ROLE auditor;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;
"""
SCHEMA = """
CREATE SCHEMA sales;
CREATE EXTENSION hstore SCHEMA public;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE point3 AS (x int, y int, z int);
CREATE TYPE span AS RANGE (subtype = int);
CREATE DOMAIN positive AS int DEFAULT 1 CHECK (VALUE > 0);
CREATE SEQUENCE ticket START 10 INCREMENT 5 CACHE 2;
CREATE COLLATION plain (provider = libc, locale = 'C');

CREATE TABLE customer (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    email varchar(100),
    feeling mood DEFAULT 'ok',
    score numeric(10, 2) NOT NULL DEFAULT 0,
    tags hstore,
    CONSTRAINT customer_email_key UNIQUE (email)
);
CREATE TABLE sales.invoice (
    id bigint PRIMARY KEY DEFAULT nextval('ticket'),
    customer int NOT NULL REFERENCES customer (id),
    net numeric NOT NULL,
    gross numeric GENERATED ALWAYS AS (net * 1.2) STORED,
    made date NOT NULL,
    during int4range,
    CONSTRAINT invoice_net_check CHECK (net >= 0),
    CONSTRAINT invoice_during_excl EXCLUDE USING gist (during WITH &&)
);
CREATE TABLE event (at timestamptz NOT NULL, kind text, body jsonb) PARTITION BY RANGE (at);
CREATE TABLE event_2024 PARTITION OF event FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
CREATE TABLE secret (owner_name text, body text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON secret FOR SELECT TO clerk USING (owner_name = current_user);

CREATE INDEX customer_name_idx ON customer (lower(name)) WHERE score > 0;
CREATE INDEX invoice_made_idx ON sales.invoice (made DESC) INCLUDE (net);
CREATE STATISTICS customer_stats ON name, email FROM customer;

CREATE VIEW rich AS SELECT id, name FROM customer WHERE score > 100;
CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(net) AS net FROM sales.invoice GROUP BY customer;
CREATE UNIQUE INDEX totals_customer_idx ON totals (customer);

CREATE FUNCTION add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + b';
CREATE FUNCTION add(a text, b text) RETURNS text LANGUAGE sql AS 'SELECT a || b';
CREATE PROCEDURE tidy() LANGUAGE sql AS 'DELETE FROM event WHERE false';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE TRIGGER customer_touch BEFORE UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION touch();
CREATE EVENT TRIGGER watcher ON ddl_command_end EXECUTE FUNCTION guard();
CREATE RULE quiet AS ON DELETE TO customer DO INSTEAD NOTHING;
CREATE PUBLICATION feed FOR TABLE customer;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere OPTIONS (host 'a', secret 'pssst');
CREATE FOREIGN TABLE remote (a int) SERVER elsewhere OPTIONS (table_name 'x', secret 'pssst');

GRANT SELECT, INSERT ON customer TO clerk;
GRANT UPDATE (email) ON customer TO clerk;
GRANT USAGE ON SCHEMA sales TO clerk;
GRANT USAGE ON SEQUENCE ticket TO clerk;
REVOKE EXECUTE ON FUNCTION add(int, int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT SELECT ON TABLES TO clerk;
COMMENT ON TABLE customer IS 'who buys';
COMMENT ON COLUMN customer.name IS 'as on the invoice';
COMMENT ON FUNCTION add(int, int) IS 'adds';
COMMENT ON SCHEMA sales IS 'money';
"""
