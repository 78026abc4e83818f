-- The first idea.  It runs without an error.
ALTER TABLE units ADD location_code text, ADD batch_number text, ADD serial_number text;

UPDATE units SET
    location_code = split_part(inventory_code, '-', 1),
    batch_number = split_part(inventory_code, '-', 2),
    serial_number = split_part(inventory_code, '-', 3);

ALTER TABLE units DROP COLUMN inventory_code;
