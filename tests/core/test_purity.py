"""What keeps the core pure, and the packaging of the Twisted plugin sound."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import agm.core

CORE = Path(agm.core.__path__[0])
ROOT = CORE.parent.parent
MODULES = sorted(CORE.rglob("*.py"))
IMPURE = frozenset(
    ("twisted", "treq", "google", "socket", "time", "logging", "threading", "random", "asyncio", "subprocess", "pluggy")
)


def imported(source: str) -> Iterator[str]:
    """The full names of what a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=None | "", names=names) | ast.ImportFrom(level=1 | 2 | 3, names=names):
                yield from (f"relative.{alias.name}" for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)


def impurities(source: str) -> list[str]:
    """The imports that a module of the core must not have."""
    found = []
    for name in imported(source):
        top = name.partition(".")[0]
        foreign = top == "agm" and name != "agm.core" and not name.startswith("agm.core.")
        if top in IMPURE or foreign or top == "relative":
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_the_core_imports_neither_io_nor_the_rest_of_agm(module: Path) -> None:
    """Nothing in the core can reach a reactor, a clock, a socket, a log, or a layer above it."""
    assert impurities(module.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "import twisted.internet",
        "from twisted.web import server",
        "from google import auth",
        "from agm import hookimpl",
        "from agm.config import Config",
        "import agm.web",
        "from . import pool",
        "from ..config import Config",
        "def f():\n    import socket",
    ],
)
def test_the_check_finds_what_it_looks_for(line: str) -> None:
    """The test above is not blind, also where an import is inside of a function."""
    assert len(impurities(line)) == 1


def test_the_modules_of_the_core_are_found() -> None:
    """The test above would pass on an empty folder too."""
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.rglob("test_*.py")}
    assert len({path.stem for path in MODULES} & tested) > 10


@pytest.mark.parametrize("folder", ["twisted", "twisted/plugins"])
def test_the_plugin_folders_are_no_packages(folder: str) -> None:
    """An __init__.py there would hide Twisted itself, or every other project's plugins."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()
