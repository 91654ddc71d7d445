#!/usr/bin/env python3
"""
What a large request costs: CPU of agm beside a plain relay of bytes on Twisted, and copies of the body in memory.

usage: python bench/bodies.py [--mib 20] [--requests 10] [--rounds 3] [--check] [--json FILE]

The body is a prompt with an inline image of so many MiB.  It is sent over one connection, through agm with an account
of each kind and through bench/relay.py, in turn.  Copies are by how much the resident memory of a gateway was
higher than after small requests, at most while it served one of these, in sizes of the body; the kernel keeps the peak.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
from argparse import Namespace
from contextlib import ExitStack

from contest import KINDS, Contestant, agm, compiled_gateway, fast_upstream, serving
from figures import Figure, compare, finish, parser
from harness import HERE, UNARY, forget_peak, peak_kib
from timing import direct

RELAY = "relay of bytes"


def prompt(mib: int) -> bytes:
    """A prompt with an image of random bytes, so many MiB in the end."""
    image = base64.b64encode(os.urandom(mib * 1024**2 * 3 // 4)).decode("ascii")
    parts = [{"text": "What is in this picture?"}, {"inlineData": {"mimeType": "image/png", "data": image}}]
    return json.dumps({"contents": [{"role": "user", "parts": parts}]}).encode("ascii")


def send(it: Contestant, target: str, body: bytes, count: int) -> float:
    """Make so many requests; CPU milliseconds for each."""
    client = http.client.HTTPConnection(it.url.removeprefix("http://"), timeout=60)
    before = it.cpu
    for _ in range(count):
        client.request("POST", target, body, {"Content-Type": "application/json"})
        answer = client.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"bench: {it.name} answered {answer.status}")
    client.close()
    return (it.cpu - before) * 1e3 / count


def copies(it: Contestant, target: str, body: bytes, base: int) -> float:
    """How many bodies a gateway's memory was above `base`, in KiB, at most while it served one."""
    forget_peak(it.pid)
    send(it, target, body, 1)
    return (peak_kib(it.pid) - base) * 1024 / len(body)


def measure(options: Namespace) -> list[Figure]:
    """CPU and copies, for each kind of account."""
    body, small = prompt(options.mib), prompt(1)
    cpu: dict[str, list[float]] = {}
    held: dict[str, list[float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(fast_upstream())
        contestants = [(stack.enter_context(agm(upstream, kind, name=kind)), UNARY) for kind in KINDS]
        contestants.append((stack.enter_context(compiled_gateway(upstream, "code-assist")), UNARY))
        relay, pid = stack.enter_context(
            serving(sys.executable, HERE / "relay.py", *upstream.removeprefix("http://").split(":"))
        )
        contestants.append((Contestant(RELAY, relay, pid), direct(UNARY, "api-key")))
        for it, target in contestants:
            send(it, target, small, 2)
        base = {it.name: it.rss for it, _ in contestants}
        for _ in range(options.rounds):
            for it, target in contestants:
                held.setdefault(it.name, []).append(copies(it, target, body, base[it.name]))
                cpu.setdefault(it.name, []).append(send(it, target, body, options.requests))
    found = []
    for kind in KINDS:
        beside = {"agm": cpu[kind], RELAY: cpu[RELAY], "compiled": cpu["compiled"]}
        name = f"request of {options.mib} MiB, {kind}"
        found.append(compare(f"{name}: CPU", "ms", beside, against=RELAY, goal=1.5))
        beside = {"agm": held[kind], RELAY: held[RELAY], "compiled": held["compiled"]}
        found.append(compare(f"{name}: memory", "copies", beside, against=None, goal=2.0))
    return found


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--mib", type=int, default=20, help="size of the body (default: 20)")
    made.add_argument("--requests", type=int, default=10, help="requests of a round (default: 10)")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    return finish(measure(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
