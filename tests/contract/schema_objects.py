"""A schema with every kind of object, and one small change for each thing about them that can change."""

from __future__ import annotations

from typing import NamedTuple

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


class Change(NamedTuple):
    """A change of SCHEMA, and what a diff says of it: ``+``, ``-`` or ``~``, kind and name."""

    name: str
    sql: str
    says: tuple[str, ...]
    destructive: bool = False


def on_database(sql: str) -> str:
    """A statement with the name of the database that it is run in."""
    return f"DO $$ BEGIN EXECUTE format('{sql}', current_database()); END $$"


CHANGES = (
    Change("table added", "CREATE TABLE extra (a int, b text)", ("+ table public.extra",)),
    Change("table dropped", "DROP TABLE secret", ("- table public.secret",), destructive=True),
    Change(
        "table renamed",
        "ALTER TABLE secret RENAME TO hidden",
        ("+ table public.hidden", "- table public.secret"),
        destructive=True,
    ),
    Change("table unlogged", "ALTER TABLE parent SET UNLOGGED", ("~ table public.parent",)),
    Change("table option", "ALTER TABLE customer SET (fillfactor = 70)", ("~ table public.customer",)),
    Change("table owner", "ALTER TABLE parent OWNER TO auditor", ("~ table public.parent",)),
    Change("row security off", "ALTER TABLE secret DISABLE ROW LEVEL SECURITY", ("~ table public.secret",)),
    Change("row security forced", "ALTER TABLE secret FORCE ROW LEVEL SECURITY", ("~ table public.secret",)),
    Change("replica identity", "ALTER TABLE customer REPLICA IDENTITY FULL", ("~ table public.customer",)),
    Change("inheritance ended", "ALTER TABLE child NO INHERIT parent", ("~ table public.child",)),
    Change("partition detached", "ALTER TABLE event DETACH PARTITION event_2024", ("~ table public.event_2024",)),
    Change(
        "partition added",
        "CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        ("+ table public.event_2025",),
    ),
    Change("column added", "ALTER TABLE customer ADD vat text", ("+ column public.customer.vat",)),
    Change("column dropped", "ALTER TABLE customer DROP tags", ("- column public.customer.tags",), destructive=True),
    Change(
        "column renamed",
        "ALTER TABLE customer RENAME tags TO labels",
        ("+ column public.customer.labels", "- column public.customer.tags"),
        destructive=True,
    ),
    Change(
        "type narrowed",
        "ALTER TABLE event ALTER kind TYPE varchar(900)",
        ("~ column public.event.kind",),
        destructive=True,
    ),
    Change("type widened", "ALTER TABLE customer ALTER email TYPE text", ("~ column public.customer.email",)),
    Change("length widened", "ALTER TABLE customer ALTER email TYPE varchar(200)", ("~ column public.customer.email",)),
    Change(
        "length narrowed",
        "ALTER TABLE customer ALTER email TYPE varchar(20)",
        ("~ column public.customer.email",),
        destructive=True,
    ),
    Change("column nullable", "ALTER TABLE customer ALTER name DROP NOT NULL", ("~ column public.customer.name",)),
    Change("column required", "ALTER TABLE customer ALTER email SET NOT NULL", ("~ column public.customer.email",)),
    Change("default changed", "ALTER TABLE customer ALTER score SET DEFAULT 5", ("~ column public.customer.score",)),
    Change("default dropped", "ALTER TABLE customer ALTER score DROP DEFAULT", ("~ column public.customer.score",)),
    Change(
        "identity by default",
        "ALTER TABLE customer ALTER id SET GENERATED BY DEFAULT",
        ("~ column public.customer.id",),
    ),
    Change("identity dropped", "ALTER TABLE customer ALTER id DROP IDENTITY", ("~ column public.customer.id",)),
    Change("identity increment", "ALTER TABLE customer ALTER id SET INCREMENT 3", ("~ column public.customer.id",)),
    Change(
        "generation dropped", "ALTER TABLE sales.invoice ALTER gross DROP EXPRESSION", ("~ column sales.invoice.gross",)
    ),
    Change("column collation", 'ALTER TABLE secret ALTER body TYPE text COLLATE "C"', ("~ column public.secret.body",)),
    Change("column storage", "ALTER TABLE secret ALTER body SET STORAGE EXTERNAL", ("~ column public.secret.body",)),
    Change(
        "check added",
        "ALTER TABLE customer ADD CONSTRAINT good CHECK (score >= 0)",
        ("+ constraint public.customer.good",),
    ),
    Change(
        "check not valid",
        "ALTER TABLE customer ADD CONSTRAINT good CHECK (score >= 0) NOT VALID",
        ("+ constraint public.customer.good",),
    ),
    Change(
        "unique dropped",
        "ALTER TABLE customer DROP CONSTRAINT customer_email_key",
        ("- constraint public.customer.customer_email_key",),
    ),
    Change(
        "exclusion dropped",
        "ALTER TABLE sales.invoice DROP CONSTRAINT invoice_during_excl",
        ("- constraint sales.invoice.invoice_during_excl",),
    ),
    Change(
        "foreign key changed",
        "ALTER TABLE sales.invoice DROP CONSTRAINT invoice_customer_fkey, ADD CONSTRAINT invoice_customer_fkey "
        "FOREIGN KEY (customer) REFERENCES customer ON DELETE CASCADE",
        ("~ constraint sales.invoice.invoice_customer_fkey",),
    ),
    Change(
        "constraint renamed",
        "ALTER TABLE sales.invoice RENAME CONSTRAINT invoice_net_check TO net_ok",
        ("+ constraint sales.invoice.net_ok", "- constraint sales.invoice.invoice_net_check"),
    ),
    Change("index added", "CREATE INDEX event_kind_idx ON event (kind)", ("+ index public.event.event_kind_idx",)),
    Change("index dropped", "DROP INDEX customer_name_idx", ("- index public.customer.customer_name_idx",)),
    Change(
        "index predicate",
        "DROP INDEX customer_name_idx; CREATE INDEX customer_name_idx ON customer (lower(name))",
        ("~ index public.customer.customer_name_idx",),
    ),
    Change(
        "index include",
        "DROP INDEX sales.invoice_made_idx; CREATE INDEX invoice_made_idx ON sales.invoice (made DESC)",
        ("~ index sales.invoice.invoice_made_idx",),
    ),
    Change("statistics dropped", "DROP STATISTICS customer_stats", ("- statistics public.customer.customer_stats",)),
    Change(
        "view changed",
        "CREATE OR REPLACE VIEW rich AS SELECT id, name FROM customer WHERE score > 50",
        ("~ view public.rich",),
    ),
    Change("view dropped", "DROP VIEW rich", ("- view public.rich",)),
    Change("view option", "ALTER VIEW rich SET (security_barrier = true)", ("~ view public.rich",)),
    Change("materialized view dropped", "DROP MATERIALIZED VIEW totals", ("- materialized view public.totals",)),
    Change("materialized view index", "DROP INDEX totals_customer_idx", ("- index public.totals.totals_customer_idx",)),
    Change(
        "materialized view changed",
        "DROP MATERIALIZED VIEW totals; CREATE MATERIALIZED VIEW totals AS SELECT customer, max(net) AS net "
        "FROM sales.invoice GROUP BY customer; CREATE UNIQUE INDEX totals_customer_idx ON totals (customer)",
        ("~ materialized view public.totals",),
    ),
    Change(
        "function body",
        "CREATE OR REPLACE FUNCTION add(a int, b int DEFAULT 1) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT b + a'",
        ("~ function public.add(a integer, b integer)",),
    ),
    Change(
        "function volatility", "ALTER FUNCTION add(int, int) STABLE", ("~ function public.add(a integer, b integer)",)
    ),
    Change(
        "function security",
        "ALTER FUNCTION add(text, text) SECURITY DEFINER",
        ("~ function public.add(a text, b text)",),
    ),
    Change("overload dropped", "DROP FUNCTION add(text, text)", ("- function public.add(a text, b text)",)),
    Change("procedure dropped", "DROP PROCEDURE tidy()", ("- procedure public.tidy()",)),
    Change(
        "aggregate changed",
        "DROP AGGREGATE total(int); CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '7')",
        ("~ aggregate public.total(integer)",),
    ),
    Change("trigger dropped", "DROP TRIGGER customer_touch ON customer", ("- trigger public.customer.customer_touch",)),
    Change(
        "trigger disabled",
        "ALTER TABLE customer DISABLE TRIGGER customer_touch",
        ("~ trigger public.customer.customer_touch",),
    ),
    Change(
        "trigger changed",
        "CREATE OR REPLACE TRIGGER customer_touch AFTER UPDATE ON customer FOR EACH ROW EXECUTE FUNCTION touch()",
        ("~ trigger public.customer.customer_touch",),
    ),
    Change("event trigger disabled", "ALTER EVENT TRIGGER watcher DISABLE", ("~ event trigger watcher",)),
    Change("rule dropped", "DROP RULE quiet ON customer", ("- rule public.customer.quiet",)),
    Change("publication changed", "ALTER PUBLICATION feed ADD TABLE secret", ("~ publication feed",)),
    Change("sequence increment", "ALTER SEQUENCE ticket INCREMENT 7", ("~ sequence public.ticket",)),
    Change("sequence added", "CREATE SEQUENCE other", ("+ sequence public.other",)),
    Change(
        "sequence owned",
        "CREATE TABLE t (a int); ALTER SEQUENCE ticket OWNED BY t.a",
        ("+ table public.t", "~ sequence public.ticket"),
    ),
    Change("enum value added", "ALTER TYPE mood ADD VALUE 'great' AFTER 'happy'", ("~ enum public.mood",)),
    Change("enum value between", "ALTER TYPE mood ADD VALUE 'fine' BEFORE 'happy'", ("~ enum public.mood",)),
    Change(
        "enum value renamed", "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", ("~ enum public.mood",), destructive=True
    ),
    Change("enum added", "CREATE TYPE size AS ENUM ('s', 'm')", ("+ enum public.size",)),
    Change(
        "domain check", "ALTER DOMAIN positive ADD CONSTRAINT small CHECK (VALUE < 1000)", ("~ domain public.positive",)
    ),
    Change("domain default", "ALTER DOMAIN positive SET DEFAULT 2", ("~ domain public.positive",)),
    Change("domain required", "ALTER DOMAIN positive SET NOT NULL", ("~ domain public.positive",)),
    Change("composite type", "ALTER TYPE point3 ADD ATTRIBUTE w int", ("~ type public.point3",)),
    Change("range type dropped", "DROP TYPE span", ("- range public.span",)),
    Change("collation dropped", "DROP COLLATION plain", ("- collation public.plain",)),
    Change("extension added", "CREATE EXTENSION citext", ("+ extension citext",)),
    Change(
        "extension dropped",
        "DROP EXTENSION hstore CASCADE",
        ("- extension hstore", "- column public.customer.tags"),
        destructive=True,
    ),
    Change(
        "extension moved",
        "ALTER EXTENSION hstore SET SCHEMA sales",
        ("~ extension hstore", "~ column public.customer.tags"),
    ),
    Change(
        "policy changed",
        "ALTER POLICY own ON secret USING (owner_name = session_user)",
        ("~ policy public.secret.own",),
    ),
    Change("policy roles", "ALTER POLICY own ON secret TO auditor", ("~ policy public.secret.own",)),
    Change("policy dropped", "DROP POLICY own ON secret", ("- policy public.secret.own",)),
    Change("table grant", "GRANT DELETE ON customer TO clerk", ("~ table public.customer",)),
    Change("table revoke", "REVOKE INSERT ON customer FROM clerk", ("~ table public.customer",)),
    Change("table grant option", "GRANT SELECT ON customer TO clerk WITH GRANT OPTION", ("~ table public.customer",)),
    Change("column grant", "GRANT UPDATE (name) ON customer TO clerk", ("~ column public.customer.name",)),
    Change("schema grant", "GRANT CREATE ON SCHEMA sales TO clerk", ("~ schema sales",)),
    Change("sequence grant", "REVOKE USAGE ON SEQUENCE ticket FROM clerk", ("~ sequence public.ticket",)),
    Change(
        "function grant",
        "GRANT EXECUTE ON FUNCTION add(int, int) TO PUBLIC",
        ("~ function public.add(a integer, b integer)",),
    ),
    Change(
        "default grant",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA sales GRANT INSERT ON TABLES TO clerk",
        ("~ default privileges of postgres for tables in sales",),
    ),
    Change("table comment", "COMMENT ON TABLE customer IS 'who pays'", ("~ table public.customer",)),
    Change("column comment", "COMMENT ON COLUMN customer.name IS NULL", ("~ column public.customer.name",)),
    Change(
        "function comment",
        "COMMENT ON FUNCTION add(int, int) IS 'sums'",
        ("~ function public.add(a integer, b integer)",),
    ),
    Change(
        "index comment", "COMMENT ON INDEX customer_name_idx IS 'fast'", ("~ index public.customer.customer_name_idx",)
    ),
    Change(
        "constraint comment",
        "COMMENT ON CONSTRAINT customer_email_key ON customer IS 'one each'",
        ("~ constraint public.customer.customer_email_key",),
    ),
    Change(
        "trigger comment",
        "COMMENT ON TRIGGER customer_touch ON customer IS 'touches'",
        ("~ trigger public.customer.customer_touch",),
    ),
    Change("type comment", "COMMENT ON TYPE mood IS 'moods'", ("~ enum public.mood",)),
    Change("view comment", "COMMENT ON VIEW rich IS 'the rich'", ("~ view public.rich",)),
    Change("identity grant", "GRANT USAGE ON SEQUENCE customer_id_seq TO clerk", ("~ column public.customer.id",)),
    Change("identity renamed", "ALTER SEQUENCE customer_id_seq RENAME TO numbers", ("~ column public.customer.id",)),
    Change("view column grant", "GRANT SELECT (name) ON rich TO clerk", ("~ view public.rich",)),
    Change("view default", "ALTER VIEW rich ALTER name SET DEFAULT 'x'", ("~ view public.rich",)),
    Change("owner's revoke", "REVOKE INSERT ON customer FROM CURRENT_USER", ("~ table public.customer",)),
    Change(
        "all of the owner's revoked",
        "REVOKE ALL ON FUNCTION add(text, text) FROM CURRENT_USER",
        ("~ function public.add(a text, b text)",),
    ),
    Change("database grant", on_database("REVOKE CONNECT ON DATABASE %I FROM PUBLIC"), ("~ database itself",)),
    Change("database comment", on_database("COMMENT ON DATABASE %I IS ''x''"), ("~ database itself",)),
    Change("database setting", on_database("ALTER DATABASE %I SET work_mem = ''9MB''"), ("~ database itself",)),
    Change(
        "database setting of a role",
        on_database("ALTER ROLE clerk IN DATABASE %I SET search_path = sales"),
        ("~ database itself",),
    ),
    Change("attribute comment", "COMMENT ON COLUMN point3.x IS 'right'", ("~ type public.point3",)),
    Change("attribute dropped", "ALTER TYPE point3 DROP ATTRIBUTE z", ("~ type public.point3",), destructive=True),
    Change(
        "domain constraint comment",
        "COMMENT ON CONSTRAINT positive_check ON DOMAIN positive IS 'x'",
        ("~ domain public.positive",),
    ),
    Change(
        "primary key index comment",
        "COMMENT ON INDEX customer_pkey IS 'x'",
        ("~ constraint public.customer.customer_pkey",),
    ),
    Change(
        "primary key index option",
        "ALTER INDEX customer_pkey SET (fillfactor = 50)",
        ("~ constraint public.customer.customer_pkey",),
    ),
    Change(
        "clustered on the primary key",
        "ALTER TABLE customer CLUSTER ON customer_pkey",
        ("~ constraint public.customer.customer_pkey",),
    ),
    Change("not populated", "REFRESH MATERIALIZED VIEW totals WITH NO DATA", ("~ materialized view public.totals",)),
    Change(
        "foreign key off",
        "ALTER TABLE sales.invoice DISABLE TRIGGER ALL",
        ("~ constraint sales.invoice.invoice_customer_fkey",),
    ),
    Change("number of values", "ALTER TABLE secret ALTER body SET (n_distinct = 5)", ("~ column public.secret.body",)),
    Change(
        "publication of some columns",
        "ALTER PUBLICATION feed SET TABLE customer (id, name)",
        ("~ publication feed",),
    ),
    Change("publication filter", "ALTER PUBLICATION feed SET TABLE customer WHERE (id > 3)", ("~ publication feed",)),
    Change("publication of a schema", "ALTER PUBLICATION feed ADD TABLES IN SCHEMA sales", ("~ publication feed",)),
    Change("publication by root", "ALTER PUBLICATION feed SET (publish_via_partition_root)", ("~ publication feed",)),
    Change("server option", "ALTER SERVER elsewhere OPTIONS (SET host 'b')", ("~ foreign server elsewhere",)),
    Change("server mapping", "CREATE USER MAPPING FOR clerk SERVER elsewhere", ("~ foreign server elsewhere",)),
    Change(
        "foreign table option",
        "ALTER FOREIGN TABLE remote OPTIONS (SET table_name 'y')",
        ("~ foreign table public.remote",),
    ),
    Change("schema added", "CREATE SCHEMA archive", ("+ schema archive",)),
    Change("schema comment", "COMMENT ON SCHEMA sales IS 'cash'", ("~ schema sales",)),
    Change(
        "schema dropped",
        "DROP SCHEMA sales CASCADE",
        (
            "- schema sales",
            "- table sales.invoice",
            "- materialized view public.totals",
            "- default privileges of postgres for tables in sales",
        ),
        destructive=True,
    ),
)
