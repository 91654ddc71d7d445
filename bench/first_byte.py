#!/usr/bin/env python3
"""
Time to first byte that a gateway adds to a stream while 500 others flow: p50 and p99, in milliseconds.

usage: python bench/first_byte.py [--streams 500] [--gap 0.1] [--requests 300] [--rounds 3] [--kind code-assist]
           [--check] [--json FILE]

The streams that flow have an event every --gap seconds, and a new one begins where one ends.  Beside them one request
after another is made, in turn through the gateway and to the upstream itself while that serves the same streams; what
is added is the difference of the percentiles.  The compiled gateway is measured in the same way.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from contest import KINDS, Contestant, agm, compiled_gateway, fast_upstream, tool
from figures import Figure, compare, finish, parser
from harness import PROMPT, STREAM
from timing import asking, direct, percentile

EVENTS = 50


@contextmanager
def flowing(url: str, streams: int, seconds: float) -> Iterator[None]:
    """So many streams through a gateway, for at most so many seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="ascii") as script:
        script.write(f"wrk.method = 'POST'\nwrk.body = [[{PROMPT.decode()}]]\n")
        script.flush()
        command = [tool("wrk"), "-t1", f"-c{streams}", f"-d{seconds:.0f}s", "--timeout", "60s", "-s", script.name]
        with subprocess.Popen([*command, url + STREAM], stdout=subprocess.DEVNULL) as process:
            time.sleep(2.0)  # all have begun, and the first wave of them is over
            try:
                yield
            finally:
                process.terminate()


def first_bytes(url: str, target: str, requests: int) -> list[float]:
    """Milliseconds to the first byte of so many streams, one after the other; their ends are not waited for."""
    found = []
    for _ in range(requests):
        with asking(url) as it:
            found.append(it.begin(target))
    return found


def measure(options: Namespace) -> list[Figure]:
    """p50 and p99 of what is added."""
    added: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    with ExitStack() as stack:
        upstream = stack.enter_context(fast_upstream(events=EVENTS, gap=options.gap))
        contestants: list[Contestant] = [
            stack.enter_context(agm(upstream, options.kind)),
            stack.enter_context(compiled_gateway(upstream, options.kind)),
        ]
        for it in contestants:
            first_bytes(it.url, STREAM, 20)
        for _ in range(options.rounds):
            for it in contestants:
                with flowing(it.url, options.streams, 600):
                    through, beside = [], []
                    for _ in range(max(options.requests // 20, 1)):
                        through += first_bytes(it.url, STREAM, 20)
                        beside += first_bytes(upstream, direct(STREAM, options.kind), 20)
                for name, at in (("p50", 0.5), ("p99", 0.99)):
                    added[name].setdefault(it.name, []).append(percentile(through, at) - percentile(beside, at))
    note = f"{options.streams} streams flow meanwhile, with an event every {options.gap * 1e3:g} ms"
    return [
        compare(f"added time to first byte, {name}", "ms", rounds, against=None, goal=goal, note=note)
        for (name, rounds), goal in zip(added.items(), (3.0, 15.0), strict=True)
    ]


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--streams", type=int, default=500, help="streams that flow meanwhile (default: 500)")
    made.add_argument("--gap", type=float, default=0.1, help="seconds between their events (default: 0.1)")
    made.add_argument("--requests", type=int, default=300, help="streams that are timed in a round (default: 300)")
    made.add_argument("--kind", choices=KINDS, default=KINDS[0], help=f"of the account (default: {KINDS[0]})")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    return finish(measure(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
