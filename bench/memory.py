#!/usr/bin/env python3
"""
How much memory a gateway takes: after its start, for each open stream, and for a reader that is slow.

usage: python bench/memory.py [--streams 1000] [--mib 1024] [--kind code-assist] [--check] [--json FILE]

Resident memory after the start is that of a gateway with one account that has answered a GET /healthz.  For open
streams so many clients have got one event each and wait for more that does not come; what memory has grown by since
the same gateway had 100 of them, divided.  The slow reader is that of bench/slow_reader.py.  The compiled gateway is
beside the first two.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import slow_reader
from contest import KINDS, Contestant, agm, compiled_gateway, fast_upstream
from figures import Figure, compare, finish, parser
from harness import PROMPT, STREAM

from testbed.processes import get

#: Streams that are opened, and closed again, before memory is first looked at.
WARMING = 100
AGAINST = "compiled"


@contextmanager
def idle_streams(url: str, count: int) -> Iterator[None]:
    """So many streams that have had their first event and get no other."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = f"POST {STREAM} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(PROMPT)}\r\n\r\n".encode() + PROMPT
    with ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection((host, int(port)), 30))
            client.sendall(request)
            clients.append(client)
        for client in clients:
            received = b""
            while b"data: " not in received:
                data = client.recv(65536)
                if not data:
                    raise SystemExit(f"bench: a stream broke off after {received[:200]!r}")
                received += data
        yield


def _settled(it: Contestant) -> int:
    """Resident memory in KiB, when it no longer falls."""
    found = it.rss
    for _ in range(20):
        time.sleep(0.25)
        before, found = found, it.rss
        if found >= before:
            break
    return found


def after_start(options: Namespace) -> Figure:
    """Resident memory, in MiB."""
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(fast_upstream())
        for make in (agm, compiled_gateway):
            for _ in range(3):
                with make(upstream, options.kind) as it:
                    get(it.url, "/healthz")
                    found.setdefault(it.name, []).append(_settled(it) / 1024)
    return compare("resident memory after start", "MiB", found, against=None, goal=60.0)


def for_each_stream(options: Namespace) -> Figure:
    """Memory of an open stream in which nothing happens, in KiB."""
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        upstream = stack.enter_context(fast_upstream(events=1, hold=True))
        for make in (agm, compiled_gateway):
            with make(upstream, options.kind) as it:
                with idle_streams(it.url, WARMING):
                    base = _settled(it)
                    with idle_streams(it.url, options.streams):
                        grew = _settled(it) - base
                found[it.name] = [grew / options.streams]
    note = f"{options.streams:,} streams, {options.kind}"
    return compare("memory of an open idle stream", "KiB", found, against=None, goal=25.0, note=note)


def for_a_slow_reader(options: Namespace) -> Figure:
    """Growth for an answer that is not read as fast as it comes, in MiB: the worst of all kinds, forms and readers."""
    rows = list(slow_reader.measure(options.mib, 5.0))
    worst = max(rows, key=lambda row: row.grew)
    note = f"worst of {len(rows)}: {worst.kind}, {worst.form}, the client reads {worst.reader}; {options.mib} MiB"
    return Figure("growth for a slow reader", "MiB", {"agm": max(worst.grew, 0.0)}, goal=2.0, note=note)


def measure(options: Namespace) -> list[Figure]:
    """All three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * (options.streams + WARMING) + 100
    if soft < needed:
        if hard < needed:
            raise SystemExit(f"bench: {options.streams} streams need {needed} files; ulimit -Hn is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return [after_start(options), for_each_stream(options), for_a_slow_reader(options)]


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--streams", type=int, default=1000, help="streams that are open (default: 1000)")
    made.add_argument("--mib", type=int, default=1024, help="size of the slow reader's answer (default: 1024)")
    made.add_argument("--kind", choices=KINDS, default=KINDS[0], help=f"of the account (default: {KINDS[0]})")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    return finish(measure(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
