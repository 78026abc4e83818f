CREATE TABLE book (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text NOT NULL, copies int NOT NULL DEFAULT 1 CHECK (copies >= 0));
CREATE TABLE loan (book_id int NOT NULL REFERENCES book, reader text NOT NULL, PRIMARY KEY (book_id, reader));
INSERT INTO book (title, copies) VALUES ('Middlemarch', 1), ('Emma', 2), ('Villette', 3);
