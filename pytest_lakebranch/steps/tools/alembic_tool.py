"""Alembic, in a process of its own."""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import Pool

from pytest_lakebranch.steps.tools.serving import Calls, FailedError, RefusedError, main

_DRIVER = "postgresql+psycopg"
_BROKEN = ("is not present", "is present more than once")


class Tool:
    """One ``alembic.ini``, led to one address."""

    def __init__(self, ini: str, where: dict[str, Any]) -> None:
        self._where = where
        self._config = Config(ini)
        url = self._url().render_as_string(hide_password=False)
        self._config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        self._script = self._read()
        self._records: list[Any] = []
        event.listen(Engine, "do_connect", self._check)
        event.listen(Pool, "connect", lambda _connection, record: self._records.append(record))

    def _url(self) -> URL:
        """Our address with the driver that the project uses."""
        try:
            written = self._config.get_main_option("sqlalchemy.url") or _DRIVER + "://"
            driver = make_url(written).drivername
        except Exception:  # noqa: BLE001  (a template of the project's own, which env.py fills in: any error of parsing)
            driver = _DRIVER
        chosen = driver if driver.startswith("postgresql+") else _DRIVER
        query = {"host": self._where["host"], "port": str(self._where["port"])}
        return URL.create(chosen, username=self._where["user"], database=self._where["database"], query=query)

    def _read(self) -> ScriptDirectory:
        """The scripts; refused when one names another that is not there, or two have the same revision."""
        script = None
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                script = ScriptDirectory.from_config(self._config)
                script.get_heads()
            except KeyError as error:  # how Alembic ends when a revision is not there, after it has warned
                reason: Exception = error
                broken = _broken(told)
                if not broken:
                    raise
            except CommandError as error:
                reason, broken = error, [*_broken(told), str(error)]
            else:
                reason, broken = RefusedError(), _broken(told)
        if broken or script is None:
            raise RefusedError(f"the revisions do not fit together: {' '.join(broken)}") from reason
        return script

    def _check(
        self, _dialect: object, _record: object, arguments: Iterable[object], parameters: dict[str, Any]
    ) -> None:
        """Before any connection that SQLAlchemy makes (DialectEvents.do_connect)."""
        ours = self._where["host"]
        told = [*arguments, *parameters.values()]
        if not any(ours in str(value) for value in told) and not self._is_our_port(parameters):
            place = parameters.get("host") or parameters.get("service") or "elsewhere"
            raise RefusedError(
                f"env.py connects to {place}, not to the branch. Have it take the URL from "
                "config.get_main_option('sqlalchemy.url'), or from a variable that lakebranch_env names."
            )

    def _is_our_port(self, parameters: dict[str, Any]) -> bool:
        """Whether it is the loopback port that the application's variables name, which leads to the branch."""
        found = [str(parameters.get("host")), str(parameters.get("port"))]
        return self._where["loopback"] is not None and found == [str(part) for part in self._where["loopback"]]

    def plan(self, target: str) -> dict[str, Any]:
        """The revisions from the first to ``target`` (empty: the only head), and what that depends on."""
        target = target or self._only_head()
        try:
            scripts = list(self._script.iterate_revisions(target, "base"))
        except CommandError as error:
            raise RefusedError(f"there is no way from the beginning to {target}: {error}") from error
        places = {Path(script.path).parent for script in self._script.walk_revisions()}
        return {
            "revisions": [self._facts(script) for script in reversed(scripts)],
            "common": [str(self._config.config_file_name), str(Path(self._script.dir) / "env.py")],
            "watched": [
                *map(str, self._script._version_locations),
                *map(str, places),
                *(str(script.path) for script in self._script.walk_revisions()),
            ],
        }

    def _facts(self, script: Script) -> dict[str, Any]:
        before = (*script._versioned_down_revisions, *script._resolved_dependencies)
        return {
            "revision": script.revision,
            "name": script.doc,
            "path": str(script.path),
            "after": sorted(before),
            "reversible": _is_reversible(script.module),
        }

    def _only_head(self) -> str:
        heads = self._script.get_heads()
        if not heads:
            raise RefusedError(f"there are no revisions in {self._script.dir}.")
        if len(heads) > 1:
            named = ", ".join(f"{head} ({_of(self._script.get_revision(head))})" for head in heads)
            raise RefusedError(
                f"there are {len(heads)} heads: {named}. Merge them (`alembic merge heads`), or name the one to go to: "
                f"@{heads[0]}, or @heads for all."
            )
        return heads[0]

    def apply(self, revisions: list[str]) -> int:
        """Upgrade through these revisions, in their order; those that are applied are left out. How many were not."""
        return self._run(revisions, down=False)

    def rollback(self, revision: str) -> int:
        """Downgrade this revision, which must be a head of the database."""
        return self._run([revision], down=True)

    def _run(self, revisions: list[str], *, down: bool) -> int:
        course = _Course(self._script, revisions, down=down)
        try:
            with EnvironmentContext(self._config, self._script, fn=course.steps, destination_rev=revisions[-1]):
                self._script.run_env()
        except RefusedError:
            raise
        except Exception as error:
            if course.at is None:
                raise
            raise FailedError(str(course.at.path)) from error
        finally:
            for record in self._records:
                record.invalidate(soft=False)
            self._records.clear()
        if not course.begun:
            raise RefusedError("env.py ran no migrations: does it call context.run_migrations()?")
        return course.done


class _Course:
    """What is handed to Alembic as the migrations to run; knows which one is at work."""

    def __init__(self, script: ScriptDirectory, revisions: list[str], *, down: bool) -> None:
        self._script = script
        self._revisions = revisions
        self._down = down
        self.begun = False
        self.at: Script | None = None
        self.done = 0

    def steps(self, heads: Any, _context: MigrationContext) -> Iterator[MigrationStep]:
        """The steps from the database's ``heads``."""
        self.begun = True
        applied = self._applied(tuple(heads))
        make = MigrationStep.downgrade_from_script if self._down else MigrationStep.upgrade_from_script
        for revision in self._revisions:
            if (revision in applied) == self._down:
                self.at = self._script.get_revision(revision)
                yield make(self._script.revision_map, self.at)
                self.done += 1
        self.at = None

    def _applied(self, heads: tuple[str, ...]) -> set[str]:
        unknown = [head for head in heads if not self._knows(head)]
        if unknown:
            raise RefusedError(
                f"the database is ahead of the code: it has revision {', '.join(unknown)} applied, which no file of "
                f"{self._script.dir} is. Does a step before this one bring it from another branch of the code?"
            )
        return {script.revision for script in self._script.iterate_revisions(heads, "base")} if heads else set()

    def _knows(self, revision: str) -> bool:
        try:
            return self._script.get_revision(revision) is not None
        except CommandError:
            return False


def _broken(told: list[warnings.WarningMessage]) -> list[str]:
    texts = [str(warning.message) for warning in told]
    return [text for text in texts if any(part in text for part in _BROKEN)]


def _of(script: Script | None) -> str:
    return "" if script is None else Path(script.path).name


def _is_reversible(module: Any) -> bool:
    """Whether there is a downgrade, and it is not one that only raises."""
    downgrade = getattr(module, "downgrade", None)
    if downgrade is None:
        return False
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(downgrade)))
    except (OSError, SyntaxError, TypeError):
        return True
    body = (
        [node for node in tree.body[0].body if not _is_text(node)] if isinstance(tree.body[0], ast.FunctionDef) else []
    )
    return not body or not isinstance(body[0], ast.Raise)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def load(ini: str, where: dict[str, Any]) -> Calls:
    """What can be asked."""
    tool = Tool(ini, where)
    return {"plan": tool.plan, "apply": tool.apply, "rollback": tool.rollback}


if __name__ == "__main__":
    main(load)
