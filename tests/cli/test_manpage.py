"""``docs/agm.1``: it is what ``tools/manpage.py`` makes of the commands as they are now, and ``man`` can show it."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manpage() -> ModuleType:
    """The tool, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("manpage", ROOT / "tools" / "manpage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(manpage: ModuleType) -> None:
    """After a change of a command: python tools/manpage.py"""
    assert manpage.PAGE.read_text("utf-8") == manpage.page(), "run: python tools/manpage.py"


@pytest.mark.process
def test_it_can_be_shown_without_a_warning(manpage: ModuleType) -> None:
    """By groff, as man does."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tutf8", "-Kutf8", str(manpage.PAGE)], capture_output=True, timeout=60, check=False
    )
    assert done.stderr == b""
    assert b"account" in done.stdout


def test_text_is_text_for_roff(manpage: ModuleType) -> None:
    """Backslashes, hyphens, and lines that begin as a request would."""
    assert manpage.escaped("a\\b --c\n.d\n'e") == "a\\eb \\-\\-c\n\\&.d\n\\&'e"
    argument = argparse.ArgumentParser().add_argument("--shell", choices=("a", "b"))
    assert manpage.written(argument) == "\\fB\\-\\-shell\\fR \\fIa|b\\fR"
