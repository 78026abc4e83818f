"""Checks on migrations as test items; registered only where ``lakebranch_check_migrations`` is set."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from pytest_lakebranch.changes import append_summary
from pytest_lakebranch.checks import ALL, Checks, Irreversible, measured
from pytest_lakebranch.config import DIFF_SUFFIXES, Settings
from pytest_lakebranch.errors import LakebranchError
from pytest_lakebranch.migrations import rules, squawk
from pytest_lakebranch.migrations.observation import Observation
from pytest_lakebranch.rehearsal import Planned, Stage
from pytest_lakebranch.run import run_of
from pytest_lakebranch.schema import elsewhere
from pytest_lakebranch.schema.markdown import cell, plain
from pytest_lakebranch.stash import CHANGES, SETTINGS
from pytest_lakebranch.steps.files import shown

PROPERTY = "lakebranch_migration"
MARKS = {"passed": "✅", "failed": "❌", "skipped": "⏭"}


class MigrationFile(pytest.File):
    """The file that a migration is written in, as a collector of its checks."""

    def collect(self) -> Iterator[pytest.Item]:
        """The checks of the migrations that are written in it."""
        plugin = _plugin(self.config)
        planned = plugin.of_file(self.path)
        for one in planned:
            for check in ALL:
                name = check if len(planned) == 1 else f"{check}[{one.migration.revision}]"
                yield MigrationItem.from_parent(self, name=name, check=check, planned=one)


class MigrationItem(pytest.Item):
    """One check of one migration."""

    def __init__(self, *, check: str, planned: Planned, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check = check
        self._planned = planned
        self.add_marker("lakebranch_migrations")
        self.extra_keyword_matches.add(planned.migration.revision)

    def runtest(self) -> None:
        """Carry out the check."""
        source = shown(self._planned.migration.source, self.config.rootpath)
        facts = {"migration": self._planned.label, "source": source, "check": self._check}
        try:
            seen = ALL[self._check](_plugin(self.config).checks, self._planned)
            self.user_properties += _properties(facts, seen)
        except Irreversible as reason:
            self.user_properties += _properties(facts, None)
            pytest.skip(str(reason))
        except LakebranchError:
            self.user_properties += _properties(facts, None)
            raise

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Our message alone: our own stack tells a user nothing."""
        if isinstance(excinfo.value, LakebranchError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """What the head of a failure says."""
        return self.path, None, f"migration {self._planned.label}: {self._check}"


def _properties(facts: dict[str, str], seen: Observation | None) -> list[tuple[str, object]]:
    """For JUnit, and for the table of the pull request."""
    if seen is None:
        return [(PROPERTY, json.dumps(facts))]
    told = {**facts, "measured": measured(seen)}
    figures = {"duration": round(seen.duration, 4), "wal_bytes": seen.wal_bytes}
    lists = {
        "locks": "; ".join(map(str, seen.locks)),
        "rewrites": "; ".join(map(str, seen.rewrites)),
    }
    pairs = [(f"lakebranch_{name}", value) for name, value in {**figures, **lists}.items()]
    return [(PROPERTY, json.dumps(told)), *pairs]


class MigrationChecks:
    """The plugin: collects the checks, carries them out, and tells the controller's user about them."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._outcomes: dict[tuple[str, str], dict[str, tuple[str, str]]] = {}

    @cached_property
    def _stage(self) -> Stage:
        try:
            return Stage(run_of(self._config))
        except LakebranchError as error:
            raise pytest.UsageError(f"lakebranch: {error}") from None

    def refuse_unknown_rules(self) -> None:
        """Raise UsageError when what lint is to let pass is no rule: a misspelt one would be a dead one.

        A project's own configuration of Squawk may choose any of its rules; then all names are taken.
        """
        if (self._root / squawk.CONFIG).exists():
            return
        known = sorted({*rules.RULES, *squawk.CHOSEN})
        for entry in self._settings.check_migrations_allow:
            rule = entry.rpartition(":")[2]
            if rule not in known:
                near = get_close_matches(rule, known, n=1)
                mean = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(known)}."
                raise pytest.UsageError(f"lakebranch_check_migrations_allow: there is no rule {rule!r}. {mean}")

    @cached_property
    def checks(self) -> Checks:
        """What carries them out."""
        return Checks(self._stage, self._settings)

    @cached_property
    def _by_file(self) -> dict[Path, list[Planned]]:
        found: dict[Path, list[Planned]] = {}
        for one in self._wanted():
            found.setdefault(self._root / one.migration.source, []).append(one)
        return found

    @property
    def _root(self) -> Path:
        return Path(self._settings.root)

    def _wanted(self) -> Iterable[Planned]:
        since = self._settings.check_migrations_since
        if not since:
            return self._stage.own
        try:
            return self._since(since)
        except LakebranchError as error:
            raise pytest.UsageError(f"lakebranch_check_migrations_since: {error}") from None

    def _since(self, since: str) -> list[Planned]:
        own = self._stage.own
        if since.startswith(elsewhere.REVISION):
            there = elsewhere.files_at(since.removeprefix(elsewhere.REVISION), root=self._root)
            return [one for one in own if (self._root / one.migration.source).resolve() not in there]
        after = self._stage.named(since)
        return own[own.index(after) + 1 :] if after in own else own

    def of_file(self, path: Path) -> list[Planned]:
        """The migrations that are written in a file."""
        return self._by_file.get(path, [])

    @pytest.hookimpl
    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        """A migration's file that is in the way of pytest, or named on its command line."""
        return MigrationFile.from_parent(parent, path=file_path) if file_path in self._by_file else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Also those that are elsewhere, unless the command line names single tests or files."""
        there = {item.path for item in items if isinstance(item, MigrationItem)}
        if not any(_is_single(argument) for argument in session.config.args):
            for path in self._by_file:
                if path not in there:
                    items += MigrationFile.from_parent(session, path=path).collect()
        order = {path: number for number, path in enumerate(self._by_file)}
        mine = sorted((item for item in items if isinstance(item, MigrationItem)), key=lambda item: order[item.path])
        items[:] = [*(item for item in items if not isinstance(item, MigrationItem)), *mine]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Give back what the checks hold, while the host is there."""
        if "_stage" in vars(self):
            self._stage.close()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how a check ended; with workers, in the controller too."""
        told = dict(report.user_properties).get(PROPERTY)
        if isinstance(told, str) and report.when == "call":
            facts = json.loads(told)
            checks = self._outcomes.setdefault((facts["migration"], facts["source"]), {})
            checks[facts["check"]] = (report.outcome, facts.get("measured", ""))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table for the pull request: after that of the schema, in the Markdown file and in the job's summary."""
        if hasattr(self._config, "workerinput") or not self._outcomes:
            return
        try:
            self._write(self.markdown())
        except OSError as error:
            said = f"lakebranch migration checks: not written: {error.strerror}: {error.filename}"
            terminalreporter.line(said, red=True)

    def _write(self, text: str) -> None:
        """After the schema diff; where that could not be written, instead of what an earlier run has left there."""
        compared = self._config.stash.get(CHANGES, ([], "not compared"))[1] == ""
        for name in self._settings.schema_diff:
            path = self._root / Path(name).expanduser()
            if path.suffix.lower() == DIFF_SUFFIXES[0]:
                with path.open("a" if compared else "w", encoding="utf-8", errors="backslashreplace") as stream:
                    stream.write(f"\n{text}" if compared else text)
        append_summary(text, os.environ)

    def markdown(self) -> str:
        """One row for each migration; where several have one name, with the file of each."""
        lines = [
            "### Migration checks",
            "",
            f"| migration | {' | '.join(ALL)} | measured |",
            "|---" * (len(ALL) + 2) + "|",
        ]
        names = Counter(label for label, _ in self._outcomes)
        for (label, source), checks in self._outcomes.items():
            name = label if names[label] == 1 else f"{label} ({source})"
            cells = [MARKS.get(checks.get(check, ("", ""))[0], "") for check in ALL]
            seen = next((one for check in ALL if (one := checks.get(check, ("", ""))[1])), "")
            lines.append(f"| {cell(name)} | {' | '.join(cells)} | {plain(seen)} |")
        return "\n".join([*lines, "", "⏭: declared irreversible, or nothing undoes it", ""])


def _is_single(argument: str) -> bool:
    return "::" in argument or Path(argument).is_file()


def _plugin(config: pytest.Config) -> MigrationChecks:
    plugin = config.pluginmanager.get_plugin(NAME)
    assert isinstance(plugin, MigrationChecks)  # noqa: S101  (registered by us)
    return plugin


NAME = "lakebranch_migrations"


def register(config: pytest.Config) -> None:
    """Make the checks a part of this process's run."""
    plugin = MigrationChecks(config, config.stash[SETTINGS])
    plugin.refuse_unknown_rules()
    config.pluginmanager.register(plugin, NAME)
