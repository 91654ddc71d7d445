"""What keeps the emulator apart from the gateway, and most of it apart from the reactor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import agm.emulator

MODULES = sorted(Path(agm.emulator.__path__[0]).glob("*.py"))
#: The modules that may name Twisted: the socket, the service, and the type of the clock.
IMPURE = {"playback", "sockets", "site", "tap", "state"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_nothing_of_the_gateway(path: Path) -> None:
    """But the version; and the command, which has a reactor to see to, the clock for it."""
    ours = {name for name in imported(path) if name.split(".")[0] == "agm"}
    shared = {"agm", "agm.net.clocks.use_steady_clock"} if path.stem == "tap" else {"agm"}
    assert {name for name in ours if not name.startswith("agm.emulator")} <= shared


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem not in IMPURE], ids=lambda path: path.stem)
def test_what_makes_a_reply_knows_no_reactor(path: Path) -> None:
    """Nor a socket, nor the time."""
    impure = {"twisted", "socket", "time", "asyncio", "threading"}
    assert {name.split(".")[0] for name in imported(path)} & impure == set()


def test_only_the_command_names_the_global_reactor() -> None:
    """Everybody else is given one."""
    naming = {path.stem for path in MODULES if "twisted.internet.reactor" in imported(path)}
    assert naming == {"tap"}


def test_the_overview_names_every_module() -> None:
    """The package's docstring is where a reader begins."""
    named = set(re.findall(r"``([a-z]+)``", agm.emulator.__doc__ or ""))
    assert {path.stem for path in MODULES} - {"__init__"} <= named
