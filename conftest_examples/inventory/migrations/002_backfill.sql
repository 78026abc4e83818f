-- Migrate the rows that were there before, some thousands at a time, each time in a short transaction of its own: it
-- can be stopped at any moment and taken up again.  Labels nobody can read keep NULLs.

UPDATE units
SET (location_code, batch_number, serial_number) = (SELECT said.* FROM split_inventory_code(inventory_code) AS said)
WHERE unit_id BETWEEN %(first)s AND %(last)s AND location_code IS NULL;
