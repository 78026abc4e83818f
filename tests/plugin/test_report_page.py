"""The page of a run, as a browser shows it."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.plugin.conftest import Project
from tests.plugin.test_report import SCHEMA, SUITE

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VOID = {"meta", "link", "br", "img"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page is kept for the next test."""
    return tmp_path_factory.mktemp("page") / "report.html"


@pytest.fixture
def page(project: Project, shared: Path) -> Path:
    """The page of a run with two workers and leases of every kind; made for the first test that asks."""
    if not shared.exists():
        project.write(schema_dot_sql=SCHEMA, test_it=SUITE)
        project.ini(lakebranch_base="sql:schema.sql", lakebranch_env="DATABASE_URL", lakebranch_report="report.html")
        project.spawn("-n", "2").assert_outcomes(passed=6)
        shutil.copy(project.path / "report.html", shared)
    return shared


def browse(page: Path, *options: str) -> str:
    """Load the page in headless Chromium, without a network; return what it printed. Skips where there is none."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--hide-scrollbars", "--proxy-server=127.0.0.1:9", "--enable-logging=stderr", *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


class Outline(HTMLParser):
    """Which elements there are, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Note its end."""
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_it_stands_alone(page: Path) -> None:
    """The page refers to nothing outside itself, has no script, and its elements are nested rightly."""
    outline = Outline()
    outline.feed(page.read_text())
    assert (outline.open, outline.wrong) == ([], [])
    references = [value for _, name, value in outline.attributes if name in ("src", "href")]
    assert references == ["data:,"]
    assert not re.search(r"<script|https?://|@import|url\(", page.read_text())


def test_a_browser_shows_it(page: Path) -> None:
    """Chromium loads it without a complaint and finds the sections; a test's name is shown, not interpreted."""
    document = browse(page, "--dump-dom")
    heads = re.findall(r"<h2>(.*?)</h2>", document)
    assert heads == ["How leases ended", "Timeline", "Slowest", "Connections left open", "Tree of branches"]
    assert re.findall(r"<h3>(.*?)</h3>", document) == ["gw0", "gw1"]
    assert "test_leave_open[&lt;b&gt;&amp;'" in document
    assert "[<b>" not in document
    for part in ("branch of the run", "branch of gw", "destructive", "nothing was written"):
        assert part in document, part


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(page: Path, scheme: str) -> None:
    """A picture of the page is taken in either scheme; the paper has the scheme's colour."""
    picture = page.with_suffix(".png")
    number = {"dark": 0, "light": 1}[scheme]
    settings = f"--blink-settings=preferredColorScheme={number}"
    browse(page, settings, "--window-size=1200,800", f"--screenshot={picture}")
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert (width, height) == (1200, 800)
    assert len(picture.read_bytes()) > 20_000


def test_it_can_be_read_aloud(page: Path) -> None:
    """The page has a language, tables have captions and column heads, drawings have a text."""
    text = page.read_text()
    assert '<html lang="en">' in text
    assert text.count("<table>") == text.count("<caption>") == text.count("<thead>") > 0
    drawings = re.findall(r'<div class="(?:lanes|share)" ([^>]*)>', text)
    assert drawings
    assert all('role="img" aria-label="' in drawing for drawing in drawings)
