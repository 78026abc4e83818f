"""Who is measured: the files of a project that does a case's tests in each one's own way."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.peers.cases import Case

HEAD = "import os\n\nimport psycopg\nimport pytest\n"
CONNECTED = """
@pytest.fixture
def conn({needs}):
    with psycopg.connect({where}, autocommit={autocommit}) as made:
        yield made
"""
TESTS = """
@pytest.mark.parametrize("n", range({tests}))
def test_it(conn, n):
    {body}
    conn.commit()
"""
UNSAFE = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


@dataclass(frozen=True)
class Contestant:
    """``slow`` maps cases to how many tests are enough where each takes long; ``cannot`` says why a case is left out.

    ``server``: needs a running server in FLOOR. ``plugins`` are those of pytest that it needs.
    """

    title: str
    plugins: tuple[str, ...] = ()
    server: bool = False
    ordinary_user: bool = False
    slow: dict[str, int] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """The project, by file name."""
        raise NotImplementedError


class Floor(Contestant):
    """One database for all, and no isolation: what a test costs at least."""

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """See Contestant."""
        conn = CONNECTED.format(needs="", where='os.environ["FLOOR"]', autocommit=False)
        return {"test_it.py": HEAD + conn + TESTS.format(tests=tests, body=case.body)}


class Ours(Contestant):
    """A branch per test."""

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """See Contestant."""
        mark = "@pytest.mark.destructive" if case.destructive else ""
        conn = CONNECTED.format(needs="lakebranch", where="lakebranch.conninfo", autocommit=False)
        return {
            "schema.sql": case.schema,
            "pytest.ini": "[pytest]\nlakebranch_base = sql:schema.sql\n",
            "test_it.py": HEAD + conn + mark + TESTS.format(tests=tests, body=case.body),
        }


class PytestPostgresql(Contestant):
    """CREATE DATABASE … TEMPLATE for each test."""

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """See Contestant."""
        head = HEAD.replace(
            "import pytest\n", "import pytest\nfrom pathlib import Path\nfrom pytest_postgresql import factories\n"
        )
        made = 'proc = factories.postgresql_proc(load=[Path("schema.sql")])\nconn = factories.postgresql("proc")\n'
        return {
            "schema.sql": case.schema,
            "pytest.ini": f"[pytest]\npostgresql_exec = {programs}/pg_ctl\n",
            "test_it.py": head + made + TESTS.format(tests=tests, body=case.body),
        }


class Pgmem(Contestant):
    """A fork of a PostgreSQL in memory for each test."""

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """See Contestant."""
        prepare = (
            '\n@pytest.fixture(scope="session")\ndef pgmem_prepare(pgmem_server):\n'
            "    with psycopg.connect(pgmem_server.dsn, autocommit=True) as made:\n"
            '        made.execute(open("schema.sql").read())\n'
        )
        conn = CONNECTED.format(needs="pgmem_dsn", where="pgmem_dsn", autocommit=False)
        return {
            "schema.sql": case.schema,
            "test_it.py": HEAD + prepare + conn + TESTS.format(tests=tests, body=case.body),
        }


SETTINGS = """
import os
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "app", "USER": "postgres",
                         "HOST": os.environ["FLOOR_HOST"], "PORT": "5432"}}
INSTALLED_APPS = ["shop"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
SECRET_KEY = "x"
"""
MODEL = """
class T{n}(models.Model):
    a = models.TextField()
    b = models.TextField(unique=True)
    class Meta:
        db_table = "t{n}"
"""
DJANGO = """
@pytest.fixture(scope="session")
def django_db_setup(django_db_setup, django_db_blocker):
    from django.db import connection
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        if rows := open("rows.sql").read():
            cursor.execute(rows)

@pytest.mark.django_db(transaction={transaction})
@pytest.mark.parametrize("n", range({tests}))
def test_it(n):
    from django.db import connection
    with connection.cursor() as conn:
        {body}
"""


class Django(Contestant):
    """pytest-django with an equivalent model: its connection stays open from test to test."""

    def files(self, case: Case, tests: int, programs: str) -> dict[str, str]:
        """See Contestant."""
        models = "from django.db import models\n" + "".join(MODEL.format(n=n) for n in range(case.tables))
        body = DJANGO.format(transaction="flush" in self.options, tests=tests, body=case.body)
        return {
            "settings.py": SETTINGS,
            "shop/__init__.py": "",
            "shop/models.py": models,
            "rows.sql": case.rows,
            "pytest.ini": "[pytest]\nDJANGO_SETTINGS_MODULE = settings\npythonpath = .\n",
            "test_it.py": HEAD + body,
        }


SLOW = {"insert": 12, "insert-75mb": 6, "insert-2gb": 2, "read": 12, "ddl": 12, "destructive": 12}
FLUSH = {"insert": 20, "insert-75mb": 8, "read": 20, "ddl": 20}
SHARED = {"destructive": "the table is gone for the tests that follow"}
TOO_LARGE = {"insert-2gb": "a base of 2 GB does not fit in its 32-bit memory"}
EMPTIED = {
    **SHARED,
    "insert-75mb": "flush empties all tables after the first test",
    "insert-2gb": "flush empties all tables after the first test",
}
CONTESTANTS: dict[str, Contestant] = {
    "floor": Floor("one shared database, no isolation (floor)", server=True, cannot=SHARED),
    "lakebranch": Ours("pytest-lakebranch", ("pytest_lakebranch.plugin",)),
    "lakebranch-copy": Ours("pytest-lakebranch, storage = copy", ("pytest_lakebranch.plugin",), options=("copy",)),
    "pytest-postgresql": PytestPostgresql(
        "pytest-postgresql", ("pytest_postgresql.plugin",), ordinary_user=True, slow=SLOW
    ),
    "pytest-postgresql-unsafe": PytestPostgresql(
        "pytest-postgresql, fsync off",
        ("pytest_postgresql.plugin",),
        ordinary_user=True,
        slow=SLOW,
        options=(f"--postgresql-postgres-options={' '.join(UNSAFE)}",),
    ),
    "pgmem": Pgmem("pgmem", ("pgmem.pytest_plugin",), slow={"insert": 40}, cannot=TOO_LARGE),
    "django-rollback": Django("pytest-django, rollback", ("pytest_django.plugin",), server=True),
    "django-flush": Django(
        "pytest-django, transactional",
        ("pytest_django.plugin",),
        server=True,
        slow=FLUSH,
        cannot=EMPTIED,
        options=("flush",),
    ),
}
