"""Small Alembic and Django projects, written to a directory as a user would have them."""

from __future__ import annotations

from pathlib import Path

ALEMBIC_INI = """
[alembic]
script_location = %(here)s/migrations
sqlalchemy.url = postgresql+psycopg://nobody@nowhere.invalid/nothing

[loggers]
keys = root
[handlers]
keys =
[formatters]
keys =
[logger_root]
level = WARNING
handlers =
"""
ENV_PY = """
import asyncio
from logging.config import fileConfig

from alembic import context
from sqlalchemy import engine_from_config, pool

fileConfig(context.config.config_file_name)
print("env.py says hello")


def run():
    settings = context.config.get_section(context.config.config_ini_section)
    engine = engine_from_config(settings, prefix="sqlalchemy.", poolclass=pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()


run()
"""
REVISION = '''"""{doc}"""
from alembic import op

revision = "{revision}"
down_revision = {down!r}


def upgrade():
{upgrade}


def downgrade():
{downgrade}
'''


def alembic_project(root: Path, *, env: str = ENV_PY) -> Path:
    """An Alembic project without revisions; returns its folder of versions."""
    versions = root / "migrations" / "versions"
    versions.mkdir(parents=True)
    (root / "alembic.ini").write_text(ALEMBIC_INI)
    (root / "migrations" / "env.py").write_text(env)
    return versions


def alembic_revision(
    versions: Path, revision: str, down: str | tuple[str, ...] | None, *sql: str, undo: str | None = None, doc: str = ""
) -> Path:
    """One revision that executes ``sql``; without ``undo`` its downgrade raises."""
    upgrade = "\n".join(f"    op.execute({statement!r})" for statement in sql) or "    pass"
    downgrade = f"    op.execute({undo!r})" if undo is not None else "    raise NotImplementedError('no way back')"
    file = versions / f"{revision}_{(doc or 'change').replace(' ', '_')}.py"
    file.write_text(
        REVISION.format(doc=doc or revision, revision=revision, down=down, upgrade=upgrade, downgrade=downgrade)
    )
    return file


SETTINGS = """
import os

SECRET_KEY = "s"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", {apps}]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "nothing", "HOST": "nowhere.invalid"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
"""
DJANGO_MIGRATION = """
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL({sql!r}{undo})]
"""


def django_project(root: Path, package: str, *apps: str) -> Path:
    """A Django project whose settings are ``package``.settings, with apps without migrations; returns its folder."""
    folder = root / package
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "settings.py").write_text(SETTINGS.format(apps=", ".join(f'"{package}.{app}"' for app in apps)))
    for app in apps:
        (folder / app / "migrations").mkdir(parents=True)
        for name in ("__init__.py", "migrations/__init__.py", "models.py"):
            (folder / app / name).write_text("")
    return folder


def django_migration(
    app: Path, name: str, dependencies: list[tuple[str, str]], sql: str, undo: str | None = None
) -> Path:
    """One migration that executes ``sql``; without ``undo`` it is irreversible."""
    file = app / "migrations" / f"{name}.py"
    back = "" if undo is None else f", {undo!r}"
    file.write_text(DJANGO_MIGRATION.format(dependencies=dependencies, sql=sql, undo=back))
    return file
