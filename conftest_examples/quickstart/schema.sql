CREATE TABLE books (
    isbn   text PRIMARY KEY,
    title  text NOT NULL,
    copies integer NOT NULL CHECK (copies >= 0)
);

INSERT INTO books (isbn, title, copies) VALUES
    ('9780132350884', 'Clean Code', 3),
    ('9780201485677', 'Refactoring', 2),
    ('9780321127426', 'Patterns of Enterprise Application Architecture', 1);
