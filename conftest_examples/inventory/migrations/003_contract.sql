-- Contract: when no old release writes any more.  Refuses as long as a label waits for somebody to read it.

DO $$
DECLARE
    unread bigint := (SELECT count(*) FROM units WHERE location_code IS NULL);
BEGIN
    IF unread > 0 THEN
        RAISE EXCEPTION '% labels are not split yet', unread
            USING HINT = 'SELECT unit_id, inventory_code FROM units WHERE location_code IS NULL';
    END IF;
END $$;

-- What a label says where we would print something else today: nothing is lost when inventory_code goes.
CREATE TABLE IF NOT EXISTS unit_old_labels (
    unit_id        integer PRIMARY KEY REFERENCES units ON DELETE CASCADE,
    inventory_code text NOT NULL UNIQUE
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'units'::regclass AND attname = 'inventory_code') THEN
        INSERT INTO unit_old_labels (unit_id, inventory_code)
        SELECT unit_id, inventory_code FROM units
        WHERE inventory_code <> join_inventory_code(location_code, batch_number, serial_number);
    END IF;
END $$;

ALTER TABLE units
    DROP CONSTRAINT IF EXISTS units_at_location,
    DROP CONSTRAINT IF EXISTS units_batch_number,
    DROP CONSTRAINT IF EXISTS units_serial_number,
    ADD CONSTRAINT units_at_location FOREIGN KEY (location_code) REFERENCES locations (code),
    ADD CONSTRAINT units_batch_number CHECK (batch_number ~ '^B\d{4}$'),    -- or NULL: not recorded
    ADD CONSTRAINT units_serial_number CHECK (serial_number ~ '^\d{6}(-R)?$'),
    ALTER COLUMN location_code SET NOT NULL,
    ALTER COLUMN serial_number SET NOT NULL;

CREATE UNIQUE INDEX IF NOT EXISTS units_by_serial_number ON units (serial_number);
CREATE INDEX IF NOT EXISTS units_by_location ON units (location_code);

DROP TRIGGER IF EXISTS code_stays_in_step ON units;
DROP FUNCTION IF EXISTS keep_code_in_step, split_inventory_code;
ALTER TABLE units DROP COLUMN IF EXISTS inventory_code;

CREATE OR REPLACE VIEW unit_labels AS
SELECT unit_id, coalesce(old.inventory_code, join_inventory_code(location_code, batch_number, serial_number)) AS label
FROM units LEFT JOIN unit_old_labels old USING (unit_id);
