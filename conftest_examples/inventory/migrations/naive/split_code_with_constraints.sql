-- The second idea: the same, and the database checks the result.  It stops at the first irregular label.
ALTER TABLE units ADD location_code text, ADD batch_number text, ADD serial_number text;

UPDATE units SET
    location_code = split_part(inventory_code, '-', 1),
    batch_number = split_part(inventory_code, '-', 2),
    serial_number = split_part(inventory_code, '-', 3);

ALTER TABLE units
    ADD CHECK (batch_number ~ '^B\d{4}$'),
    ADD CHECK (serial_number ~ '^\d{6}$'),
    ADD FOREIGN KEY (location_code) REFERENCES locations (code),
    DROP COLUMN inventory_code;
