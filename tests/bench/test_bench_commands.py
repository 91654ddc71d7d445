"""
The commands under ``bench`` work: their options are understood, what they find is shown and judged, and one of them
measures, for a moment.  No test says how fast anything is.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.processes import run

BENCH = Path(__file__).resolve().parent.parent.parent / "bench"
sys.path.insert(0, str(BENCH))

from figures import Figure, compare, load, save, table  # noqa: E402  # found through the line above
from report import PAGE, markdown, picture, put  # noqa: E402

COMMANDS = ["bodies", "first_byte", "live", "memory", "report", "scaling", "selection", "slow_reader", "speed", "start"]


def bench(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the folder, at its end."""
    done: subprocess.CompletedProcess[str] = run(
        [sys.executable, BENCH / f"{name}.py", *arguments], capture_output=True, text=True, check=False
    )
    return done


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.process
def test_a_command_says_how_it_is_used_and_refuses_what_it_does_not_know(name: str) -> None:
    """Without building, starting or measuring anything."""
    shown = bench(name, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--rounds" in shown.stdout or name in ("slow_reader", "memory")
    assert bench(name, "--no-such-option").returncode == 2


@pytest.mark.process
def test_a_peer_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    """Before anything is started."""
    done = bench("speed", "unary", "--peers", "nginx,other")
    assert done.returncode == 2
    assert "other is no peer; there are nginx, mitmproxy, litellm" in done.stderr


def test_a_ratio_is_the_median_of_the_rounds_and_is_what_is_judged() -> None:
    """A figure with nothing to compare with is judged by itself, one without a goal not at all."""
    found = compare("unary", "µs", {"agm": [4.0, 9.0, 4.0], "compiled": [2.0, 3.0, 1.0]}, against="compiled", goal=3.0)
    assert (found.ratio, found.met, found.values) == (3.0, True, {"agm": 4.0, "compiled": 2.0})
    alone = compare("start", "s", {"agm": [0.5, 1.5, 1.1]}, against=None, goal=1.0)
    assert (alone.ratio, alone.met) == (None, False)
    assert Figure("other", "s", {"agm": 1.0}).met is None


def test_figures_are_kept_and_shown_with_what_they_are_beside(tmp_path: Path) -> None:
    """In a table of text, on the page between its marks, and as bars."""
    figures = [
        compare("unary, code-assist", "µs", {"agm": [300.0], "compiled": [100.0]}, against="compiled", goal=2.0),
        Figure("cold start to first answer", "s", {"agm": 0.5}, goal=1.0, note="a < b"),
    ]
    save(figures, tmp_path / "figures.json")
    assert load(tmp_path / "figures.json") == figures
    shown = table(figures)
    assert "≤ 2 × compiled: MISSED" in shown
    assert "≤ 1 s: reached" in shown
    assert "| unary, code-assist, µs | 300 | compiled 100 | 3.00 | ≤ 2 × compiled | **missed** |" in markdown(figures)
    page = put(PAGE.read_text(encoding="utf-8"), figures, "a machine")
    assert page.count("### CPU") == page.count("Taken on: a machine.") == 1
    assert put(page, figures, "a machine") == page
    assert picture(figures).count("<rect") == 2


@pytest.mark.skipif(not (shutil.which("go") and shutil.which("wrk")), reason="needs golang-go and wrk")
@pytest.mark.process
@pytest.mark.slow
def test_a_command_measures_and_writes_what_it_found(tmp_path: Path) -> None:
    """With as little as it can: the programs are built, three processes start, and every answer is good."""
    kept = tmp_path / "figures.json"
    done = bench("speed", "unary", "--rounds=1", "--secs=1", f"--json={kept}")
    assert done.returncode == 0, done.stderr
    (figure,) = load(kept)
    assert set(figure.values) == {"agm", "compiled"}
    assert all(value > 0 for value in figure.values.values())
