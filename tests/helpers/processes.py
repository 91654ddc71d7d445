"""
Tests that start a process are marked ``process``, so that ``pytest -m "not process"`` is quick.

The mark is written at the test; what starts a process without it fails here, so that none is forgotten.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Folders of which every test talks to processes that serve the whole session.
FOLDERS = [Path(__file__).parents[1] / "clients"]
#: Seconds after which a slow test is ended; ``timeout`` in pyproject.toml is for the others.
SLOW = 600
_STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn"})

_started = 0


def _watch(event: str, arguments: Any) -> None:
    if event in _STARTS:
        global _started
        _started += 1


@pytest.hookimpl
def pytest_configure() -> None:
    """Watch what the interpreter starts."""
    sys.addaudithook(_watch)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whole folders, before ``-m`` is looked at, and give slow tests the time they need."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in FOLDERS):
            item.add_marker("process")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW))


@contextmanager
def _held_to_its_mark(item: pytest.Item) -> Iterator[None]:
    before = _started
    yield
    assert _started == before or item.get_closest_marker("process"), "it starts a process: mark it process"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Fail a test whose fixtures have started a process without the mark."""
    with _held_to_its_mark(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that has started a process without the mark."""
    with _held_to_its_mark(item):
        yield
