"""The commands of the promises, as CONTRIBUTING names them, with little to do and what is timed left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.process
def test_nothing_is_left_of_a_short_soak() -> None:
    """The limit of memory is wide: so few exchanges are hardly a warm-up."""
    printed = run("bench/soak.py", "--exchanges", "500", "--limit", "16")
    assert "left: nothing" in printed
    assert "wrong answers: 0" in printed


@pytest.mark.parametrize("row", ["refusals", "truncation", "stale"])
@pytest.mark.process
def test_a_row_of_the_promises_holds(row: str) -> None:
    head, _, line = run("bench/promises.py", "--short", "--rows", row).splitlines()
    assert head == "| promise | tried | figure | holds |"
    assert line.endswith("| yes |")
