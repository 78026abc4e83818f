-- Rules that hold whoever writes.

CREATE FUNCTION book_movement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.source_id IS NOT NULL THEN
        UPDATE stock SET on_hand = on_hand - NEW.quantity
        WHERE product_id = NEW.product_id AND location_id = NEW.source_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'product % is not at location %', NEW.product_id, NEW.source_id
                USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    IF NEW.target_id IS NOT NULL THEN
        INSERT INTO stock AS s (product_id, location_id, on_hand)
        VALUES (NEW.product_id, NEW.target_id, NEW.quantity)
        ON CONFLICT (product_id, location_id) DO UPDATE SET on_hand = s.on_hand + excluded.on_hand;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER movement_is_booked AFTER INSERT ON stock_movements
    FOR EACH ROW EXECUTE FUNCTION book_movement();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is a ledger: rows are added, never changed', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER movements_stay BEFORE UPDATE OR DELETE ON stock_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION check_order_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (
        ('open', 'reserved'), ('open', 'cancelled'), ('reserved', 'shipped'), ('reserved', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'order % is %, it cannot become %', NEW.order_id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER order_status_moves_on BEFORE UPDATE OF status ON orders
    FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION check_order_status();
