#!/usr/bin/env python3
"""
All figures in one go, and the page that shows them: the tables of docs/performance.md, and its picture.

usage: python bench/report.py [--rounds 5] [--secs 3] [--peers nginx,mitmproxy] [--only NAME] [--from FILE] [--check]

It measures for about half an hour; the machine should have nothing else to do.  What was found is kept in
bench/figures.json.  With --from FILE nothing is measured: the page and the picture are made from what is in the file.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path

import bodies
import first_byte
import memory
import scaling
import speed
import start
from contest import tool
from figures import Figure, load, save, table
from harness import HERE

PAGE = HERE.parent / "docs" / "performance.md"
PICTURE = HERE.parent / "docs" / "images" / "performance.svg"
KEPT = HERE / "figures.json"

#: What belongs together on the page: a heading, and how the names of its figures begin.
GROUPS = {
    "CPU": ("unary", "burst", "paced"),
    "Time": ("latency", "added time", "cold start", "CPU of a cold start"),
    "Memory": ("resident memory", "memory of", "growth"),
    "Many accounts and keys": ("10,000",),
    "Large requests": ("request of", "held up by"),
}


def everything(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], list[Figure]]]]:
    """Each measurement, by a name."""
    rounds, secs = f"--rounds={options.rounds}", f"--secs={options.secs}"
    peers = [f"--peers={options.peers}"] if options.peers else []
    for kind in speed.KINDS:
        for mode in (*speed.WORK, "latency"):
            beside = peers if kind == speed.KINDS[0] and mode in ("unary", "burst") else []
            chosen = speed.options([mode, rounds, secs, f"--kind={kind}", *beside])
            yield f"{mode}, {kind}", lambda mode=mode, chosen=chosen: speed.measure(mode, chosen)  # type: ignore[misc]
    for mode in ("unary", "burst"):
        chosen = speed.options([mode, rounds, secs, "--tls"])
        yield f"{mode}, TLS", lambda mode=mode, chosen=chosen: speed.measure(mode, chosen)  # type: ignore[misc]
    yield "first byte", lambda: first_byte.measure(first_byte.options([]))
    yield "start", lambda: start.measure(start.options([rounds]))
    yield "memory", lambda: memory.measure(memory.options([]))
    yield "scaling", lambda: scaling.measure(scaling.options([rounds, secs]))
    yield "bodies", lambda: bodies.measure(bodies.options([rounds]))


def machine() -> str:
    """What the figures were taken on."""
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    go = subprocess.run([tool("go"), "version"], capture_output=True, text=True, check=True).stdout.split()[2]
    processor = found[1] if found else platform.machine()
    system = f"{os.cpu_count()} cores, Linux {platform.release().split('-')[0]}"
    return (
        f"{processor}, {system}; Python {platform.python_version()}, Twisted {version('twisted')},"
        f" Go {go.removeprefix('go')}"
    )


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(figures: Sequence[Figure]) -> str:
    """The tables of the page."""
    parts = []
    for heading, names in GROUPS.items():
        rows = [it for it in figures if it.name.startswith(names)]
        if not rows:
            continue
        lines = [f"### {heading}", "", "| | agm | beside | ratio | goal | |", "|---|---|---|---|---|---|"]
        for it in rows:
            own, *others = it.values.items()
            beside = ", ".join(f"{who} {_shown(value)}" for who, value in others)
            ratio = "" if it.ratio is None else f"{it.ratio:.2f}"
            verdict = {None: "", True: "reached", False: "**missed**"}[it.met]
            name = f"{it.name}, {it.unit}" + (f" ({it.note})" if it.note else "")
            lines.append(f"| {name} | {_shown(own[1])} | {beside} | {ratio} | {it.goal_shown} | {verdict} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.q{fill:#57606a}.ok{fill:#2f81c7}.no{fill:#c9510c}"
    ".goal{stroke:#57606a;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.q{fill:#9ba6b2}.ok{fill:#58a6ff}.no{fill:#f0883e}"
    ".goal{stroke:#9ba6b2}}"
)
#: Of the picture, in pixels: where bars begin, how long one is that is at its goal, how long at most, and the row.
LEFT, AT_GOAL, MOST, ROW = 280, 220, 440, 24


def picture(figures: Sequence[Figure]) -> str:
    """Each figure that has a goal as a bar, and a line where the goal is; a shorter bar is better."""
    rows = [it for it in figures if it.goal is not None]
    height = ROW * len(rows) + 56
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" role="img">',
        "<title>Each figure as a part of its goal; shorter is better</title>",
        f"<style>{STYLE}</style>",
        f'<text class="q" x="{LEFT + AT_GOAL}" y="18" text-anchor="middle">goal</text>',
    ]
    for number, it in enumerate(rows):
        goal = it.goal
        assert goal is not None, "those without were left out"
        value = next(iter(it.values.values())) if it.ratio is None else it.ratio
        length = max(min(value / goal * AT_GOAL, MOST), 2)
        y = 30 + number * ROW
        unit = f"{_shown(value)} {it.unit}" if it.ratio is None else f"{value:.2f} × {it.against}"
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(it.name)}</text>',
            f'<rect class="{"ok" if it.met else "no"}" x="{LEFT}" y="{y}" width="{length:.0f}" height="{ROW - 8}"/>',
            f'<text class="q" x="{LEFT + max(length, AT_GOAL) + 8:.0f}" y="{y + 13}">{escape(unit)}</text>',
        ]
    x = LEFT + AT_GOAL
    lines += [f'<line class="goal" x1="{x}" y1="24" x2="{x}" y2="{height - 20}"/>', "</svg>"]
    return "\n".join(lines) + "\n"


def put(page: str, figures: Sequence[Figure], taken_on: str) -> str:
    """The page with these figures, between its two marks."""
    found = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    body = f"\nTaken on: {taken_on}.\n\n{markdown(figures)}\n\n"
    page, count = found.subn(lambda it: f"{it[1]}{body}{it[2]}", page)
    if count != 1:
        raise SystemExit("bench: docs/performance.md has no place for figures")
    return page


def main() -> int:
    """Measure what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--secs", type=float, default=3.0)
    parser.add_argument("--peers", default="", help="other gateways: nginx,mitmproxy,litellm")
    parser.add_argument("--only", default="", metavar="NAME", help="measure what is called so, and keep the rest")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing")
    parser.add_argument("--check", action="store_true", help="status 1 if a goal is missed")
    options = parser.parse_args()
    figures = load(options.source or KEPT) if options.source or (options.only and KEPT.exists()) else []
    if options.source is None:
        for name, measure in everything(options):
            if options.only in name:
                print(f"-- {name}", flush=True)
                taken = measure()
                print(table(taken), flush=True)
                known = {it.name: it for it in taken}
                figures = [known.pop(it.name, it) for it in figures] + list(known.values())
                save(figures, KEPT)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(figures), encoding="utf-8")
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), figures, machine()), encoding="utf-8")
    missed = [it.name for it in figures if it.met is False]
    print(f"{len(missed)} of {sum(it.goal is not None for it in figures)} goals are missed: {', '.join(missed)}")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
