"""Every example: it keeps the rules, is short, is listed, and has a test."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agm.plugins.manager import make_plugin_manager
from agm.testing import check_plugin

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


def test_there_are_examples() -> None:
    """The other tests have something to look at."""
    assert len(NAMES) >= 5


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_the_rules_of_every_hook(name: str) -> None:
    check_plugin(name)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_short_listed_and_tested(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring is not None
    assert f"[plugins.{name}" in docstring, "the docstring shows the settings"
    assert len(text.splitlines()) - len(docstring.splitlines()) <= 60
    assert f"({name}.py)" in (EXAMPLES / "README.md").read_text("utf-8")
    assert Path(__file__).with_name(f"test_{name}.py").exists()


def test_the_readme_lists_the_hooks_that_an_example_has() -> None:
    """And no others."""
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    manager = make_plugin_manager(NAMES, entry_points=False)
    for name in NAMES:
        row = next(line for line in readme.splitlines() if f"({name}.py)" in line)
        hooks = {caller.name for caller in manager.get_hookcallers(manager.get_plugin(name)) or ()} - {"agm_configure"}
        assert {word.strip("`,") for word in row.rpartition("| `")[2].split()} - {"|"} == hooks


def test_all_examples_work_together_from_one_folder() -> None:
    """As examples/README.md says to use them."""
    manager = make_plugin_manager(folder=EXAMPLES, entry_points=False)
    loaded = [name for name, origin in manager.origins.items() if origin.kind == "file"]
    assert loaded == [f"agm_plugins.{name}" for name in NAMES]
