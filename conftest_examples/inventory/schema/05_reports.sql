CREATE VIEW available_stock AS
SELECT p.product_id, p.sku, p.reorder_level, coalesce(sum(s.on_hand - s.reserved), 0)::integer AS available
FROM products p LEFT JOIN stock s USING (product_id)
GROUP BY p.product_id;

-- Dear to compute, good enough when it is some minutes old: inventory.reports.refresh() brings it up to date.
CREATE MATERIALIZED VIEW stock_value AS
SELECT w.name AS warehouse, sum(s.on_hand)::integer AS pieces, sum(s.on_hand * p.unit_price) AS value
FROM stock s
JOIN products p USING (product_id)
JOIN locations l USING (location_id)
JOIN warehouses w USING (warehouse_id)
GROUP BY w.name;

CREATE UNIQUE INDEX stock_value_by_warehouse ON stock_value (warehouse);
