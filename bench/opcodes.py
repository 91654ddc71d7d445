#!/usr/bin/env python3
"""
How many instructions of Python a request takes, and where: a figure that a busy machine does not change.

usage: python bench/opcodes.py [unary|stream] [--kind api-key|code-assist] [--beside FOLDER] [--top 25]
       python bench/opcodes.py --plugin agm.contrib.answer_cache --settings plugins.answer_cache.max_bytes=0

Counts what the reactor's thread executes in 300 requests of one connection, one after the other.  An instruction is not
a unit of time, and what libraries do in C counts as one; but the same code gives the same count, so that a change of
one percent shows.  With --beside, the agm in another folder is counted, too, and what differs is shown by function;
with --plugin, this one without the plugin.
Needs Debian's golang-go for the upstream.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from contest import KINDS, configuration, fast_upstream
from harness import HERE, STREAM, UNARY, gateway, load

REQUESTS, WARMING = 300, 100
#: The folder that a module lies in, of whatever Python or checkout.
_FOLDER = re.compile(r".*/(?:site-packages|lib/python3\.\d+)/|<attrs generated \w+ (.*)>")


def take(url: str) -> list[tuple[int, str, str]]:
    """What has been counted since the last time: how often, in which file, in which function."""
    with urllib.request.urlopen(f"{url}/counting", timeout=30) as answer:
        rows: list[tuple[int, str, str]] = json.load(answer)
    return rows


def counted(
    folder: Path, upstream: str, kind: str, target: str, plugins: Sequence[str] = (), settings: str = ""
) -> Counter[str]:
    """The instructions of a request, by function."""
    paths = f"{HERE}:{folder}"
    options = [option for plugin in ("counting", *plugins) for option in ("--plugin", plugin)]
    text = f"{settings}\n{configuration(upstream, kind)}"
    with gateway(text, *options, env={"PYTHONPATH": paths}) as twistd:
        load(twistd.url(), target, WARMING, 1)
        take(twistd.url())
        load(twistd.url(), target, REQUESTS, 1)
        found: Counter[str] = Counter()
        for count, file, function in take(twistd.url()):
            where = _FOLDER.sub(r"\1", file.removeprefix(f"{folder}/"))
            found[f"{where} {function}"] += count
    return Counter({name: round(count / REQUESTS) for name, count in found.items()})


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n", 1)[0])
    parser.add_argument("work", nargs="?", choices=("unary", "stream"), default="unary")
    parser.add_argument("--kind", choices=KINDS, default="api-key", help="of the account")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="a checkout of another agm")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="count with this plugin")
    parser.add_argument("--settings", default="", metavar="TOML", help="more of the configuration, for the plugin")
    parser.add_argument("--top", type=int, default=25, metavar="N", help="functions that are shown")
    args = parser.parse_args()
    target = STREAM if args.work == "stream" else UNARY
    with fast_upstream() as upstream:
        here = counted(HERE.parent, upstream, args.kind, target, args.plugin, args.settings)
        other = args.beside.resolve() if args.beside else HERE.parent if args.plugin else None
        there = None if other is None else counted(other, upstream, args.kind, target)
    print(f"{args.work}, {args.kind}: {here.total()} instructions of Python a request")
    if there is None:
        for name, count in here.most_common(args.top):
            print(f"{count:7}  {name}")
        return
    where = f"in {args.beside}" if args.beside else "without"
    print(f"{where}: {there.total()}; ratio {here.total() / there.total():.3f}")
    differing = sorted({*here, *there}, key=lambda name: abs(here[name] - there[name]), reverse=True)
    for name in differing[: args.top]:
        print(f"{there[name]:7} -> {here[name]:7}  {name}")


if __name__ == "__main__":
    sys.exit(main())
