#!/usr/bin/env python3
"""
What a large request costs: CPU of agm beside a plain relay of bytes on Twisted, copies of the body in memory, and how
long one that is made to be slow holds everybody else up.

usage: python bench/bodies.py [--mib 20] [--requests 10] [--dense 16,100] [--rounds 3] [--check] [--json FILE]

The body is a prompt with an inline image of so many MiB.  It is sent over one connection, through agm with an account
of each kind and through bench/relay.py, in turn.  Copies are by how much the resident memory of a gateway was
higher than after small requests, at most while it served one of these, in sizes of the body; the kernel keeps the peak.

What is made to be slow is nothing but brackets, fields, numbers or strings.  Meanwhile ``/healthz`` is asked again and
again, and how long the slowest of its answers took is told, of the worst of these bodies; beside it, how long it takes
to make values of one of them, which is what decoding would cost.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack

import msgspec
from contest import KINDS, Contestant, agm, compiled_gateway, fast_upstream, serving
from figures import Figure, compare, finish, parser
from harness import HERE, UNARY, forget_peak, peak_kib
from timing import direct

RELAY = "relay of bytes"
#: Bodies of so many bytes, each slow in its own way.
DENSE: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b'{"contents":[{"parts":[]}],"x":[%b1]}' % (b"[]," * (n // 3)),
    "turns": lambda n: b'{"contents":[%b{}]}' % (b"{}," * (n // 3)),
    "towers": lambda n: b'{"contents":[],"x":[%b1]}' % ((b"[" * 90 + b"]" * 90 + b",") * (n // 181)),
    "fields": lambda n: b'{"contents":[]%b}' % b"".join(b',"%x":0' % i for i in range(n // 12)),
    "numbers": lambda n: b'{"contents":[],"x":[%b1]}' % (b"1," * (n // 2)),
    "strings": lambda n: b'{"contents":[],"x":["%b"]}' % (b'a"       ,       "' * (n // 18)),
}


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


def held(it: Contestant, target: str, body: bytes) -> float:
    """How long the slowest answer of ``/healthz`` took, in ms, while a body was read."""
    address, slowest, done = it.url.removeprefix("http://"), 0.0, threading.Event()

    def ask() -> None:
        nonlocal slowest
        client = http.client.HTTPConnection(address, timeout=60)
        while not done.is_set():
            began = time.perf_counter()
            client.request("GET", "/healthz")
            client.getresponse().read()
            slowest = max(slowest, time.perf_counter() - began)
        client.close()

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        client = http.client.HTTPConnection(address, timeout=60)
        client.request("POST", target, body, {"Content-Type": "application/json"})
        client.getresponse().read()
        client.close()
    finally:
        done.set()
        asking.join()
    return slowest * 1e3


def decoded(size: int) -> float:
    """How long it takes to make values of a body of brackets, in ms."""
    body = DENSE["lists"](size)
    began = time.perf_counter()
    msgspec.json.decode(body)
    return (time.perf_counter() - began) * 1e3


def hold_ups(options: Namespace) -> list[Figure]:
    """How long slow bodies hold everybody else up, for each kind of account."""
    found = []
    with ExitStack() as stack:
        upstream = stack.enter_context(fast_upstream())
        contestants = [stack.enter_context(agm(upstream, kind, name=kind)) for kind in KINDS]
        for mib in options.dense:
            size = mib * 1024**2 - 4096
            bodies = {shape: make(size) for shape, make in DENSE.items()}
            beside = decoded(min(size, 16 * 1024**2)) * max(1.0, size / (16 * 1024**2))
            for kind, it in zip(KINDS, contestants, strict=True):
                worst = {
                    shape: min(held(it, UNARY, body) for _ in range(options.rounds)) for shape, body in bodies.items()
                }
                shape = max(worst, key=worst.__getitem__)
                name = f"held up by {mib} MiB made to be slow, {kind}"
                values = {"agm": worst[shape], "decoding it": beside}
                found.append(
                    Figure(name, "ms", values, goal=100.0 if mib <= 16 else None, note=f"the worst is {shape}")
                )
    return found


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
    return found + hold_ups(options)


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__, rounds=3)
    made.add_argument("--mib", type=int, default=20, help="size of the body (default: 20)")
    made.add_argument("--requests", type=int, default=10, help="requests of a round (default: 10)")
    made.add_argument(
        "--dense",
        type=lambda sizes: [int(size) for size in sizes.split(",") if size],
        default=[16, 100],
        metavar="MIB,…",
        help="sizes of bodies that are made to be slow (default: 16,100)",
    )
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    return finish(measure(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
