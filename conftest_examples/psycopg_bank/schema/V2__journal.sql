CREATE TABLE journal (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, giver text, taker text, amount numeric(12, 2) NOT NULL);
