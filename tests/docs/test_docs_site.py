"""The documentation is a site: it is built without a warning, and its pages fetch nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, ROOT

#: What makes a browser fetch something by itself, by its tag.
_FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class _Fetched(HTMLParser):
    """Collects the addresses that a page makes a browser fetch, and the text of its paragraphs."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.in_paragraph = False
        self.in_code = 0
        self.paragraphs: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag in _FETCHED and found.get("rel") != "canonical":
            self.addresses.append(found.get(_FETCHED[tag]) or "")
        if tag == "p":
            self.in_paragraph = True
            self.paragraphs.append("")
        self.in_code += tag == "code"

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.in_paragraph = False
        self.in_code -= tag == "code"

    def handle_data(self, data: str) -> None:
        if self.in_paragraph and not self.in_code:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, freshly built; every warning is an error, a page that is not in the navigation one of them."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.process
def test_every_page_is_on_the_site(site: Path) -> None:
    assert {page.stem for page in site.glob("*.html")} - {"404", "search"} == {page.stem for page in DOCS.glob("*.md")}


@pytest.mark.process
def test_no_page_makes_a_browser_fetch_anything_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        reader = _Fetched()
        reader.feed(page.read_text("utf-8"))
        assert reader.addresses
        assert [a for a in reader.addresses if re.match(r"(https?:)?//", a)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", sheet.read_text("utf-8")), sheet.name


@pytest.mark.process
def test_lists_and_tables_are_not_left_as_text(site: Path) -> None:
    """GitHub forgives a list without an empty line before it, and the site would show it as a paragraph."""
    for page in site.glob("*.html"):
        reader = _Fetched()
        reader.feed(page.read_text("utf-8"))
        left = [p for p in reader.paragraphs if re.search(r"^(- |\d+\. |\|)", p, re.MULTILINE)]
        assert left == [], page.name
