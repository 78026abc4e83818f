-- Expand: three columns beside inventory_code, and a trigger that keeps both sides in step, so that the old and the
-- new release of the application can write at the same time.  No row is touched: it takes no time at any size.

ALTER TABLE units
    ADD COLUMN IF NOT EXISTS location_code text,
    ADD COLUMN IF NOT EXISTS batch_number text,
    ADD COLUMN IF NOT EXISTS serial_number text;

ALTER TABLE units ALTER COLUMN inventory_code DROP NOT NULL;

-- The parts of a code: the odd shapes we found are made regular first.  NULLs for a label nobody can read.
CREATE OR REPLACE FUNCTION split_inventory_code(
    code text, OUT location_code text, OUT batch_number text, OUT serial_number text
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    regular text := replace(upper(btrim(code)), '/', '-');
BEGIN
    IF regular ~ '^[A-Z]\d\d-\d\d-' THEN    -- L03-07-B2417-000123
        regular := left(regular, 3) || substr(regular, 5);
    ELSIF regular ~ '^\d{6}@[A-Z]\d{4}$' THEN    -- 000123@L0307
        regular := right(regular, 5) || '--' || left(regular, 6);
    END IF;
    IF regular ~ '^[A-Z]\d{4}-(B\d{4})?-\d{6}(-R)?$' THEN
        location_code := left(regular, 5);
        batch_number := nullif(split_part(regular, '-', 2), '');
        serial_number := substr(regular, 8 + length(split_part(regular, '-', 2)));
    END IF;
END $$;

CREATE OR REPLACE FUNCTION join_inventory_code(location_code text, batch_number text, serial_number text)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT location_code || '-' || coalesce(batch_number, '') || '-' || serial_number
$$;

CREATE OR REPLACE FUNCTION keep_code_in_step() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    said record := split_inventory_code(NEW.inventory_code);
    by_old_release boolean := NEW.inventory_code IS NOT NULL
        AND (TG_OP = 'INSERT' OR NEW.inventory_code IS DISTINCT FROM OLD.inventory_code);
BEGIN
    IF by_old_release THEN
        NEW.location_code := said.location_code;
        NEW.batch_number := said.batch_number;
        NEW.serial_number := said.serial_number;
    ELSIF NEW.inventory_code IS NULL
        OR said.location_code IS NOT NULL    -- a label that cannot be read stays as it is
        AND said IS DISTINCT FROM ROW(NEW.location_code, NEW.batch_number, NEW.serial_number)
    THEN
        NEW.inventory_code := join_inventory_code(NEW.location_code, NEW.batch_number, NEW.serial_number);
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE TRIGGER code_stays_in_step
    BEFORE INSERT OR UPDATE OF inventory_code, location_code, batch_number, serial_number ON units
    FOR EACH ROW EXECUTE FUNCTION keep_code_in_step();
