"""The entry point: what pytest calls. Imported in every run, so it needs nothing but the standard library and pytest.

Everything else is imported when a setting of ours is present or a test asks for a branch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_lakebranch import markers, options
from pytest_lakebranch.errors import ConfigError, LakebranchError, end_at_callers
from pytest_lakebranch.stash import (
    AHEAD,
    CHANGES,
    FACTS,
    REPORTS,
    RUN,
    RUN_ID,
    SEAT,
    SETTINGS,
    SUMMARY,
    TERMINAL,
    TROUBLE,
)

if TYPE_CHECKING:
    from pytest_lakebranch.config import Settings

pytest_plugins = ["pytest_lakebranch.fixtures"]
RUN_NO_TEST = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
"""pytest's options with which nothing of ours is started or made."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare our options."""
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare our hooks."""
    from pytest_lakebranch import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Set the application's URL before a conftest can import the application."""
    try:
        settings = options.settings_of(early_config, early_config.known_args_namespace)
    except ConfigError:
        settings = None  # said by pytest_configure, as a usage error
    if settings is not None and settings.env:
        _take_seat(early_config, settings)
    return (yield)


def _take_seat(config: pytest.Config, settings: Settings) -> None:
    """Lead the application's URL; when the run ends, also by an error before its first test, put everything back."""
    from pytest_lakebranch.environment import Seat

    try:
        seat = config.stash[SEAT] = Seat(settings)
    except LakebranchError as error:
        raise pytest.UsageError(f"lakebranch: {error}") from None
    config.add_cleanup(lambda: seat.close(os.environ))
    seat.export(os.environ)


def pytest_configure(config: pytest.Config) -> None:
    """Declare our markers and resolve the settings."""
    for line in markers.LINES:
        config.addinivalue_line("markers", line)
    try:
        config.stash[SETTINGS] = options.settings_of(config, config.option)
    except ConfigError as error:
        raise pytest.UsageError(f"lakebranch: {error}") from None
    config.stash[TERMINAL] = options.terminal_of(config)
    if config.stash[SETTINGS].check_migrations:
        from pytest_lakebranch import checking

        checking.register(config)
    if config.pluginmanager.hasplugin("dsession") or config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_Xdist(), "lakebranch_xdist")
    if SEAT in config.stash and config.pluginmanager.hasplugin("django"):
        _attend_django(config)


def _attend_django(config: pytest.Config) -> None:
    """Have pytest-django make no database where the base has one."""
    from pytest_lakebranch.frameworks import DjangoDatabases

    base = config.stash[SETTINGS].base
    if base or config.hook.pytest_lakebranch_steps.get_hookimpls():
        migrated = any(step.startswith("django:") for step in base)
        plugin = DjangoDatabases(config.stash[SEAT].places, migrated=migrated)
        config.pluginmanager.register(plugin, "lakebranch_django")


class _Xdist:
    """What is to be done where xdist is installed: its hooks must not be declared where it is not."""

    def __init__(self) -> None:
        self.users: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """In the controller: tell a worker whose run it belongs to."""
        from dataclasses import asdict
        from uuid import uuid4

        from pytest_lakebranch.processes import Identity

        config: pytest.Config = node.config
        node.workerinput["lakebranch_run"] = config.stash.setdefault(RUN_ID, uuid4().hex)
        node.workerinput["lakebranch_controller"] = asdict(Identity.of(os.getpid()))
        node.workerinput["lakebranch_terminal"] = config.stash[TERMINAL]
        _start_ahead(config, workers=node.workerinput["workercount"])
        self.users.add(node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """In the controller: strike out a worker that says that it did not use us; one that crashed says nothing."""
        if not error and not node.workeroutput.get("lakebranch_used", True):
            self.users.discard(node.gateway.id)


def _is_controller(config: pytest.Config) -> bool:
    return not hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """With a setting of ours: find out before the first test, and before the workers, what will not work."""
    config = session.config
    settings = config.stash[SETTINGS]
    idle = any(getattr(config.option, name, False) for name in RUN_NO_TEST)
    if settings.sources and _is_controller(config) and not idle:
        from pytest_lakebranch.preflight import check

        try:
            config.stash[FACTS] = check(config, settings)
        except LakebranchError as error:
            raise pytest.UsageError(f"lakebranch: {error}") from None
        if not config.pluginmanager.hasplugin("dsession"):
            _start_ahead(config, workers=1)


def _start_ahead(config: pytest.Config, *, workers: int) -> None:
    """Start the host while pytest collects; not where that costs calls to a service."""
    if AHEAD in config.stash or FACTS not in config.stash or config.stash[SETTINGS].provider != "local":
        return
    from pytest_lakebranch.run import start_ahead

    with contextlib.suppress(LakebranchError):  # said to the first test that asks for a branch
        config.stash[AHEAD] = start_ahead(config, workers=workers)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What was found and what was set; nothing where nothing was set."""
    settings = config.stash[SETTINGS]
    if not settings.sources:
        return []
    from pytest_lakebranch.reporting.terminal import header

    return header(settings, config.stash.get(FACTS, None))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Refuse markers that are written wrongly, with the tests' names."""
    report = yield
    wrong = [text for item in report.result or () if isinstance(item, pytest.Item) and (text := _wrong_marker(item))]
    if wrong:
        report.outcome, report.longrepr, report.result = "failed", "\n".join(wrong), []
    return report


def _wrong_marker(item: pytest.Item) -> str:
    try:
        markers.wish_of(item, in_use=bool(item.config.stash[SETTINGS].sources))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have the lease, or what stands in its place, set up after wider fixtures and before the test's own."""
    settings = item.config.stash[SETTINGS]
    names = getattr(item, "fixturenames", None)
    if names is None:
        return
    try:
        wish = markers.wish_of(item, in_use=bool(settings.sources))
    except ConfigError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    leased = markers.needs_lease(item, wish, autouse=settings.autouse)
    if leased or SEAT in item.config.stash or markers.WIDER & set(names):
        ours = "_lakebranch_lease" if leased else "_lakebranch_unleased"
        others = [name for name in names if name != ours]
        others.insert(_first_of_test(item, others), ours)
        if wish is not None and wish.isolation == "worker" and markers.has_class_transaction(item):
            others.insert(0, "lakebranch_worker")
        item.fixturenames = others  # type: ignore[attr-defined]  # a list of its own: pytest shares one among parameters


def _first_of_test(item: Any, names: Sequence[str]) -> int:
    """Where the fixtures of function scope begin in the names of fixtures, which are sorted by scope."""
    definitions = item._fixtureinfo.name2fixturedefs
    for position, name in enumerate(names):
        found = definitions.get(name)
        if not found or found[-1].scope == "function":
            return position
    return len(names)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """An error of ours that a test meets is shown at the test's own line: our stack tells a user nothing."""
    if call.excinfo is not None and isinstance(call.excinfo.value, LakebranchError):
        end_at_callers(call.excinfo.value)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """After all fixtures are torn down: a worker returns what it holds; the controller, which has outlived its workers,
    ends the run and keeps its summary."""
    config = session.config
    if _is_controller(config):
        _compare(config)
        _finish(config)
        _write_reports(config)
        return
    config.workeroutput["lakebranch_used"] = _asked(config)  # type: ignore[attr-defined]
    if RUN in config.stash:
        with contextlib.suppress(LakebranchError):  # the host is gone: the controller will say so
            config.stash[RUN].leave()


def _asked(config: pytest.Config) -> bool:
    """Whether this process has asked the host for anything."""
    return RUN in config.stash and config.stash[RUN].asked


def _finish(config: pytest.Config) -> None:
    xdist = config.pluginmanager.get_plugin("lakebranch_xdist")
    ahead, used = config.stash.get(AHEAD, None), _asked(config) or (xdist and xdist.users)
    if ahead is not None:
        ahead.leave() if used else ahead.abandon()
    if not used:
        if RUN in config.stash:
            config.stash[RUN].leave()
        return
    from pytest_lakebranch.run import run_of

    try:
        summary = run_of(config).finish()
    except LakebranchError as error:
        config.stash[TROUBLE] = str(error)
    else:
        if summary is not None:
            config.stash[SUMMARY] = summary


def _compare(config: pytest.Config) -> None:
    """While the host is still there: what is different in the schema."""
    if config.stash[SETTINGS].schema_diff and FACTS in config.stash:
        from pytest_lakebranch.changes import write_changes
        from pytest_lakebranch.run import run_of

        config.stash[CHANGES] = write_changes(run_of(config), os.environ)


def _write_reports(config: pytest.Config) -> None:
    """Also for a run in which no test asked for a branch: whoever collects the files finds them."""
    if config.stash[SETTINGS].report and (FACTS in config.stash or SUMMARY in config.stash):
        from pytest_lakebranch.reporting import files

        summary = config.stash.get(SUMMARY, None)
        if summary is None and TROUBLE not in config.stash:
            summary = files.nothing(config.stash[FACTS])
        run = config.stash.get(RUN_ID, "")
        config.stash[REPORTS] = files.write_reports(config.stash[SETTINGS], summary, run=run)


def _say_changes(reporter: pytest.TerminalReporter, lines: list[str], failure: str) -> None:
    for line in lines if reporter.config.get_verbosity() >= 0 else ():
        reporter.line(f"lakebranch {line}")
    if failure:
        reporter.line(f"lakebranch {failure}", red=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What the run did with its branches."""
    summary = config.stash.get(SUMMARY, None)
    if summary is not None:
        from pytest_lakebranch.reporting.terminal import write_summary

        write_summary(terminalreporter, config, summary)
    _say_changes(terminalreporter, *config.stash.get(CHANGES, ([], "")))
    if TROUBLE in config.stash:
        terminalreporter.section("lakebranch")
        terminalreporter.line(config.stash[TROUBLE], red=True)
    reports = config.stash.get(REPORTS, None)
    if reports is not None:
        from pytest_lakebranch.reporting.terminal import say_reports

        say_reports(terminalreporter, reports, quiet=config.get_verbosity() < 0)
