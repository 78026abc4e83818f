"""Django's migrations, in a process of their own."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_lakebranch.steps.tools.serving import Calls, FailedError, RefusedError, main

LAST = "after"
"""The unit behind all migrations: tables of applications without migrations, and what handlers of post_migrate do."""
ELSEWHERE = ("HOSTADDR", "hostaddr", "service", "passfile", "sslmode", "pool")
"""Connection options that would lead past us, or keep connections."""

Key = tuple[str, str]


class Tool:
    """One settings module, whose default database is led to one address."""

    def __init__(self, settings: str, where: dict[str, Any]) -> None:
        os.environ["DJANGO_SETTINGS_MODULE"] = settings
        before = set(sys.modules)
        with _reads_recorded() as self._variables:
            importlib.import_module(settings)
        self._settings_files = _files_of(set(sys.modules) - before)
        import django
        from django.db import connections

        django.setup()
        self._lead(where)
        self._connection = connections["default"]
        if self._connection.vendor != "postgresql":
            raise RefusedError(f"DATABASES['default'] of {settings} is {self._connection.vendor}, not PostgreSQL.")
        self._state: Any = None
        self._applied: set[Key] = set()
        """What was applied when ``_state``, which takes long to make, was the state of the models."""

    @staticmethod
    def _lead(where: dict[str, Any]) -> None:
        """The default database is the branch; other PostgreSQL databases cannot be reached at all."""
        from django.db import connections

        for alias, database in connections.settings.items():
            if "sqlite" in database.get("ENGINE", ""):
                continue
            host = where["host"] if alias == "default" else f"{where['host']}.no-other-database"
            options = {name: value for name, value in database.get("OPTIONS", {}).items() if name not in ELSEWHERE}
            database.update(HOST=host, PORT=str(where["port"]), PASSWORD="", OPTIONS=options, CONN_MAX_AGE=0)
            if alias == "default":
                database.update(USER=where["user"], NAME=where["database"])

    def plan(self, target: str) -> dict[str, Any]:
        """All migrations in the order of a first ``migrate``, and what that depends on."""
        assert not target  # noqa: S101  (the step has none)
        loader = self._loader(None)
        order: list[Key] = []
        for leaf in loader.graph.leaf_nodes():
            order += [key for key in loader.graph.forwards_plan(leaf) if key not in order]
        facts = [self._facts(loader.graph.nodes[key], loader.graph.node_map[key].parents) for key in order]
        handlers = self._handlers()
        common: list[str] = []
        return {
            "revisions": facts,
            "common": common,
            "last": handlers,
            "variables": sorted(self._variables),
            "watched": [*self._settings_files, *handlers, *self._places(), *(fact["path"] for fact in facts)],
        }

    def _loader(self, connection: Any) -> Any:
        """The graph of migrations; refused when it is broken or has several ends."""
        from django.db.migrations.exceptions import BadMigrationError, CircularDependencyError, NodeNotFoundError
        from django.db.migrations.loader import MigrationLoader

        try:
            loader = MigrationLoader(connection)
        except (NodeNotFoundError, CircularDependencyError, BadMigrationError) as error:
            raise RefusedError(f"the migrations do not fit together: {error}") from error
        conflicts = loader.detect_conflicts()
        if conflicts:
            named = "; ".join(f"{app}: {', '.join(sorted(names))}" for app, names in sorted(conflicts.items()))
            raise RefusedError(
                f"the migrations have several heads: {named}. Merge them (`python manage.py makemigrations --merge`)."
            )
        return loader

    @staticmethod
    def _facts(migration: Any, parents: Any) -> dict[str, Any]:
        return {
            "revision": f"{migration.app_label}.{migration.name}",
            "name": migration.name.partition("_")[2],
            "path": inspect.getsourcefile(type(migration)),
            "after": sorted(f"{app}.{name}" for app, name in (parent.key for parent in parents)),
            "reversible": all(operation.reversible for operation in migration.operations),
        }

    @staticmethod
    def _places() -> Iterator[str]:
        """The files that say which applications there are, and the folders of their migrations."""
        from django.apps import apps
        from django.db.migrations.loader import MigrationLoader

        for config in apps.get_app_configs():
            yield from _files_of({type(config).__module__})
            name, _ = MigrationLoader.migrations_module(config.label)
            found = sys.modules.get(name) if name else None
            yield from getattr(found, "__path__", [])
            yield str(Path(config.path) / "migrations")

    @staticmethod
    def _handlers() -> list[str]:
        """The files that decide what happens behind the migrations."""
        from django.apps import apps
        from django.db.migrations.loader import MigrationLoader
        from django.db.models.signals import post_migrate

        receivers = post_migrate._live_receivers(None)
        flat = [found for group in receivers for found in (group if isinstance(group, list) else [group])]
        files = {inspect.getsourcefile(inspect.unwrap(found)) for found in flat if inspect.isroutine(found)}
        for config in apps.get_app_configs():
            name, _ = MigrationLoader.migrations_module(config.label)
            if name not in sys.modules and config.models_module is not None:
                files.add(inspect.getsourcefile(config.models_module))
        return sorted(file for file in files if file)

    def apply(self, revisions: list[str]) -> int:
        """Migrate through these, in their order; those that are applied are left out. How many were not."""
        try:
            wanted = [_key(revision) for revision in revisions if revision != LAST]
            done = self._migrate(wanted) if wanted else 0
            if LAST in revisions:
                self._finish()
            return done
        finally:
            self._connection.close()

    def _migrate(self, wanted: list[Key]) -> int:
        from django.db.migrations.executor import MigrationExecutor

        executor = MigrationExecutor(self._connection)
        loader = executor.loader
        self._refuse_ahead(loader)
        nodes = [loader.graph.nodes[key] for found in wanted for key in _in_graph(loader, found)]
        plan = [(node, False) for node in nodes if (node.app_label, node.name) not in loader.applied_migrations]
        if not plan:
            return 0
        course = _Course()
        executor.progress_callback = course
        applied = set(loader.applied_migrations)
        state, self._state = (self._state if self._applied == applied else None), None
        with course.told():
            self._state = executor.migrate([], plan=plan, state=state)
        self._applied = applied | {(node.app_label, node.name) for node, _ in plan}
        return len(plan)

    @staticmethod
    def _refuse_ahead(loader: Any) -> None:
        replaced = {key for node in loader.disk_migrations.values() for key in node.replaces}
        ahead = [
            f"{app}.{name}"
            for app, name in loader.applied_migrations
            if app in loader.migrated_apps and (app, name) not in loader.disk_migrations and (app, name) not in replaced
        ]
        if ahead:
            raise RefusedError(
                f"the database is ahead of the code: it has {', '.join(sorted(ahead))} applied, which no file is. "
                "Does a step before this one bring it from another branch of the code?"
            )

    def _finish(self) -> None:
        """What ``migrate`` does behind the migrations."""
        from django.core.management import call_command

        call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)

    def rollback(self, revision: str) -> int:
        """Undo one, which nothing that is applied may depend on."""
        from django.db.migrations.executor import MigrationExecutor

        self._state = None
        try:
            executor = MigrationExecutor(self._connection)
            course = _Course()
            executor.progress_callback = course
            plan = [
                (executor.loader.graph.nodes[key], True)
                for key in reversed(_in_graph(executor.loader, _key(revision)))
                if key in executor.loader.applied_migrations
            ]
            with course.told():
                executor.migrate([], plan=plan)
            return len(plan)
        finally:
            self._connection.close()


class _Course:
    """Knows which migration is at work."""

    def __init__(self) -> None:
        self._at: Any = None

    def __call__(self, action: str, migration: Any = None, _fake: bool = False) -> None:
        if action in ("apply_start", "unapply_start"):
            self._at = migration

    @contextmanager
    def told(self) -> Iterator[None]:
        """Say with an error where it came from: declarative operations have no frame in the user's code."""
        try:
            yield
        except Exception as error:
            if self._at is None:
                raise
            raise FailedError(inspect.getsourcefile(type(self._at)) or str(self._at)) from error


def _key(revision: str) -> Key:
    app, _, name = revision.partition(".")
    return app, name


def _in_graph(loader: Any, key: Key) -> list[Key]:
    """The migration itself, or those that it replaces where a database has some of them already."""
    if key in loader.graph.nodes:
        return [key]
    return [old for old in loader.disk_migrations[key].replaces if old in loader.graph.nodes]


def _files_of(modules: set[str]) -> list[str]:
    """The files of the modules of this project, not those of Python and of what is installed."""
    files = (getattr(sys.modules.get(name), "__file__", None) for name in modules)
    return sorted(
        file for file in files if file and "site-packages" not in file and not file.startswith(sys.base_prefix)
    )


@contextmanager
def _reads_recorded() -> Iterator[set[str]]:
    """The names of environment variables that are read while the block runs."""
    names: set[str] = set()
    kind = type(os.environ)
    plain = kind.__getitem__

    def recording(self: Any, key: str) -> str:
        names.add(key)
        return plain(self, key)

    kind.__getitem__ = recording  # type: ignore[method-assign]
    try:
        yield names
    finally:
        kind.__getitem__ = plain  # type: ignore[method-assign]


def load(settings: str, where: dict[str, Any]) -> Calls:
    """What can be asked."""
    tool = Tool(settings, where)
    return {"plan": tool.plan, "apply": tool.apply, "rollback": tool.rollback}


if __name__ == "__main__":
    main(load)
