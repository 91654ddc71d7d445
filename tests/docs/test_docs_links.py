"""Every link within the project leads somewhere: to a file that is there, and a heading that is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.pages import DOCS, ROOT, anchors, links

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").glob("**/*.md")])


def broken(page: Path, within: Path = ROOT) -> list[str]:
    """The links of a page that lead nowhere, or out of a folder."""
    found = []
    for link in links(page.read_text("utf-8")):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or not target.is_relative_to(within):
            found.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            found.append(f"{link}: no such heading")
    return found


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_link_leads_to_a_file_and_heading_that_are_there(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](other.md) [b](#two) [c](#one) `[d](no)`\n```sh\n[e](no)\n```\n[`f`](#three)\n")
    assert [link.partition(":")[0] for link in broken(page, tmp_path)] == ["other.md", "#two", "#three"]


def test_every_page_can_be_found_from_the_readme() -> None:
    """A page that nobody can find is not read: the front page of the docs names them all."""
    listed = {link.partition("#")[0] for link in links((DOCS / "index.md").read_text("utf-8"))}
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} - listed == set()
    assert "docs/index.md" in set(links((ROOT / "README.md").read_text("utf-8")))
