ALTER TABLE parcel ADD IF NOT EXISTS carrier text;
