"""
A figure of a benchmark: what was measured, beside what, and what it should be.  Tables, and JSON for the report.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import attrs


@attrs.frozen
class Figure:
    """
    What one benchmark found.

    `values` are by contestant, agm's first; `ratio` is of agm to `against`, the median of the rounds' own ratios.  The
    `goal` is a limit of the ratio, where there is something to compare with, and else of agm's value.
    """

    name: str
    unit: str
    values: Mapping[str, float]
    against: str | None = None
    ratio: float | None = None
    goal: float | None = None
    #: What is said beside it.
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.goal is None:
            return None
        return (next(iter(self.values.values())) if self.ratio is None else self.ratio) <= self.goal

    @property
    def goal_shown(self) -> str:
        """The goal in words."""
        if self.goal is None:
            return ""
        return f"≤ {self.goal:g}" + (f" × {self.against}" if self.ratio is not None else f" {self.unit}")


def compare(
    name: str,
    unit: str,
    rounds: Mapping[str, Sequence[float]],
    *,
    against: str | None,
    goal: float | None,
    note: str = "",
) -> Figure:
    """A figure from rounds that were taken in turn, by contestant."""
    ratio = None
    if against is not None:
        first = next(iter(rounds.values()))
        ratio = median(a / max(b, 1e-9) for a, b in zip(first, rounds[against], strict=True))
    return Figure(name, unit, {who: median(found) for who, found in rounds.items()}, against, ratio, goal, note)


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table of text."""
    lines = [f"{'figure':52} {'agm':>9} {'beside':>24} {'ratio':>6}  goal"]
    for it in figures:
        own, *others = it.values.items()
        beside = ", ".join(f"{who} {value:.4g}" for who, value in others)
        ratio = "" if it.ratio is None else f"{it.ratio:.2f}"
        verdict = {None: "", True: "reached", False: "MISSED"}[it.met]
        goal = f"{it.goal_shown}: {verdict}" if verdict else ""
        lines.append(f"{it.name + ', ' + it.unit:52} {own[1]:9.4g} {beside:>24} {ratio:>6}  {goal}".rstrip())
        if it.note:
            lines.append(f"    {it.note}")
    return "\n".join(lines)


def save(figures: Iterable[Figure], path: Path) -> None:
    """Write figures to a file."""
    path.write_text(json.dumps([attrs.asdict(it) for it in figures], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Figure]:
    """The figures of a file."""
    return [Figure(**it) for it in json.loads(path.read_text(encoding="utf-8"))]


def parser(description: str | None, *, rounds: int = 5, seconds: float | None = None) -> argparse.ArgumentParser:
    """A parser with the options that most benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"rounds, taken in turn (default: {rounds})")
    if seconds is not None:
        made.add_argument("--secs", type=float, default=seconds, help=f"seconds of a round (default: {seconds:g})")
    made.add_argument("--check", action="store_true", help="status 1 if a goal is missed")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    return made


def finish(figures: Sequence[Figure], options: Any) -> int:
    """Print the figures; the exit status."""
    print(table(figures))
    if options.json is not None:
        save(figures, options.json)
    missed = [it.name for it in figures if it.met is False]
    if missed and options.check:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0
