"""``docs/security.md`` against the project: what holds each promise is there, versions are those of setup.cfg."""

from __future__ import annotations

import configparser
import re

from packaging.requirements import Requirement

from tests.helpers.pages import DOCS, ROOT

TEXT = (DOCS / "security.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of a table below a heading, without its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_promise_names_tests_that_are_there() -> None:
    promises = rows("Promises and their tests")
    assert len(promises) > 20
    for promise, held_by in promises:
        files = re.findall("`([^`]+)`", held_by)
        assert files, promise
        assert [name for name in files if not (ROOT / name).is_file()] == [], promise
        assert all(name.startswith("tests/") for name in files), promise


def test_there_are_as_many_hostile_requests_as_the_page_says() -> None:
    said = re.search(r"More than (\d+) hostile requests", TEXT)
    assert said is not None
    lines = (ROOT / "tests" / "web" / "hostile.txt").read_text("utf-8").splitlines()
    assert sum("|" in line and not line.startswith("#") for line in lines) > int(said[1])


def test_the_oldest_versions_are_those_that_are_installed_at_least() -> None:
    """And so for each dependency that has a reason."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    least = {requirement.name: str(requirement.specifier).removeprefix(">=") for requirement in wanted}
    for package, version, _ in rows("Dependencies"):
        assert least[package.strip("`")] == version
