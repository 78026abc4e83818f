-- What production has: a dump that was masked, say (dump:production.dump).
CREATE TABLE parcel (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text NOT NULL, weight int NOT NULL);
INSERT INTO parcel (code, weight) SELECT 'P' || n, n % 40 FROM generate_series(1, 20000) AS n;
