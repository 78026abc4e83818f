ALTER TABLE parcel DROP carrier;
