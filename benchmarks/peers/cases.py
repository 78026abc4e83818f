"""What is measured: bases, and what each test does to its copy."""

from __future__ import annotations

from dataclasses import dataclass

ROW_BYTES = 1750
"""Of a row and its share of two indexes: wide ones, since each peer loads them anew, up to 2 GB."""


@dataclass(frozen=True)
class Case:
    """``tables`` with about ``megabytes`` in all; ``body`` is a test's work on the cursor-like ``conn``, where ``n`` is
    the test's number. ``tests`` is how many of them there are where a test takes milliseconds.
    """

    title: str
    tables: int
    megabytes: int
    body: str
    tests: int = 60
    destructive: bool = False

    @property
    def schema(self) -> str:
        """The base, as SQL."""
        return "".join(f"CREATE TABLE t{n} {COLUMNS};\n" for n in range(self.tables)) + self.rows

    @property
    def rows(self) -> str:
        """What is in the tables, as SQL."""
        each = self.megabytes * 1_000_000 // ROW_BYTES // self.tables
        return "".join(FILL.format(n=n, rows=each) for n in range(self.tables)) if each else ""


COLUMNS = "(id serial PRIMARY KEY, a text, b text UNIQUE)"
FILL = "INSERT INTO t{n} (a, b) SELECT repeat(md5(g::text), 48), md5(g::text) FROM generate_series(1, {rows}) g;\n"
INSERT = """conn.execute(f"INSERT INTO t{n % 10} (a, b) VALUES ('x', 'new {n} {os.getpid()}')")"""
READ = 'conn.execute(f"SELECT count(*) FROM t{n % 10}")'
STRUCTURE = 'conn.execute(f"CREATE TABLE f{n}_{os.getpid()} (id serial PRIMARY KEY, v text)")'
DROP = 'conn.execute("DROP TABLE t0")'
CASES: dict[str, Case] = {
    "insert": Case("one INSERT per test, 10 empty tables", 10, 0, INSERT, tests=300),
    "insert-75mb": Case("one INSERT per test, 60 tables, 75 MB", 60, 75, INSERT),
    "insert-2gb": Case("one INSERT per test, 60 tables, 2 GB", 60, 2000, INSERT),
    "read": Case("read only, 10 empty tables", 10, 0, READ),
    "ddl": Case("CREATE TABLE in each test, 10 empty tables", 10, 0, STRUCTURE),
    "destructive": Case("DROP TABLE in each test, 10 empty tables", 10, 0, DROP, destructive=True),
}
