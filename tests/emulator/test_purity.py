"""What keeps most of the emulator apart from the reactor; lint-imports keeps it apart from the gateway."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import agm.emulator

MODULES = sorted(Path(agm.emulator.__path__[0]).glob("*.py"))
#: The modules that may name Twisted: the socket, the service, the programs, and the type of the clock.
IMPURE = {"playback", "sockets", "site", "tap", "state", "command", "pytest_plugin"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem not in IMPURE], ids=lambda path: path.stem)
def test_what_makes_a_reply_knows_no_reactor(path: Path) -> None:
    """Nor a socket, nor the time."""
    impure = {"twisted", "socket", "time", "asyncio", "threading"}
    assert {name.split(".")[0] for name in imported(path)} & impure == set()


def test_the_overview_names_every_module() -> None:
    """The package's docstring is where a reader begins."""
    named = set(re.findall(r"``([a-z_]+)``", agm.emulator.__doc__ or ""))
    assert {path.stem for path in MODULES} - {"__init__", "__main__"} <= named
