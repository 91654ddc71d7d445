#!/usr/bin/env python3
"""
What is left of many exchanges: memory, descriptors, timers, leases, errors in the log.

usage: python bench/soak.py [--exchanges 20000] [--clients 8] [--seed 1] [--limit 2]

Starts an emulator and a gateway with an account of each kind as processes, and asks for answers of every sort: whole,
cut, empty, refused, oversized, malformed; from clients that stay, leave by a FIN or by a reset, or read nothing.  Every
answer is judged: one that looks complete must be.  After a warm-up and at the end it waits until nothing is under way
and counts what the gateway holds.  Status 1 if anything is left, if resident memory has grown by more than the limit in
MiB, or if an answer was not what it has to be.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import attrs
from harness import HERE, account, gateway, rss_kib
from slow_reader import KINDS, emulator

from testbed.answers import Seen  # found through harness, as the next one
from testbed.processes import Twistd
from testbed.sockets import PROMPT, Client, ask

#: Exchanges of all that are made before memory counts.
WARM_UP = 0.25
MAX_BODY = 1024 * 1024
CONFIG = f'[gateway]\nmax_body = {MAX_BODY}\n[pool]\nmax_wait = 0\nstrategy = "least-loaded"\n'

_CALLS = {
    "unary": "/v1beta/models/{}:generateContent",
    "sse": "/v1beta/models/{}:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/{}:streamGenerateContent?alt=json",
}


@attrs.frozen
class Sort:
    """
    A sort of exchange.

    :param weight: how often it is made, beside the others.
    :param ends: what may become of it: ``complete``, ``cut`` or a status.
    :param leaves: when the client goes: ``before`` the head, in the ``middle``, ``reading nothing``; "" if it stays.
    """

    weight: int
    framing: str
    model: str
    ends: frozenset[str]
    leaves: str = ""


def _sort(weight: int, framing: str, model: str, *ends: str, leaves: str = "") -> Sort:
    return Sort(weight, framing, model, frozenset(ends), leaves)


SORTS: Sequence[Sort] = (
    *(_sort(12, framing, "gemini-2.5-flash", "complete") for framing in _CALLS),
    _sort(4, "sse", "emu-chunks-50", "complete"),
    _sort(1, "sse", "emu-drip-40", "complete"),
    _sort(1, "array", "emu-splitutf8", "complete"),
    _sort(2, "unary", "emu-latency-30", "complete"),
    *(_sort(2, framing, "emu-cut", "cut", "502") for framing in _CALLS),
    *(_sort(1, framing, "emu-rst-1", "cut", "502") for framing in _CALLS),
    *(_sort(1, framing, "emu-drop-2", "cut", "502") for framing in _CALLS),
    *(_sort(1, framing, "emu-midstream", "cut", "500", "503") for framing in _CALLS),
    *(_sort(1, framing, "emu-errtail-2", "cut", "500", "503") for framing in ("sse", "array")),
    _sort(1, "unary", "emu-close", "502"),
    _sort(1, "sse", "emu-emptystream", "502"),
    _sort(1, "unary", "emu-503", "503"),
    _sort(1, "sse", "emu-400", "400"),
    _sort(1, "unary", "emu-429nodetails", "429"),
    *(_sort(2, framing, "emu-hang", leaves="before") for framing in _CALLS),
    *(_sort(2, framing, "emu-slow", leaves="middle") for framing in ("sse", "array")),
    *(_sort(1, framing, "emu-giant-8", leaves="reading nothing") for framing in ("sse", "array")),
)
#: Requests that never get to an upstream, or need none; and what they get.
OWN: Sequence[tuple[bytes, str]] = (
    (b"GET /v1beta/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "200"),
    (b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "404"),
    (b"GET /healthz HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", "421"),
    (b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999\r\n\r\n", "413"),
    (b"POST /v1beta/models/m:generateContent HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n", "400"),
    (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", "431"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"),
)
#: Of a hundred exchanges, so many are of these.
OWN_SHARE = 12


@attrs.define
class Counters:
    """What has become of the exchanges."""

    ends: Counter[str] = attrs.Factory(Counter)
    wrong: list[str] = attrs.Factory(list)


@attrs.frozen
class Report:
    """What a soak has found; sizes in KiB."""

    exchanges: int
    seconds: float
    grown: int
    descriptors: int
    left: Mapping[str, int]
    ends: Mapping[str, int]
    wrong: Sequence[str]
    status: int
    errors: Sequence[str]

    def holds(self, limit: float) -> bool:
        """Whether nothing is left, and memory has grown by no more than `limit` MiB."""
        nothing_left = not any(self.left.values()) and self.descriptors <= 0
        return nothing_left and self.grown <= limit * 1024 and not self.wrong and not self.errors and self.status == 0

    def table(self) -> str:
        """For people."""
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items(), key=lambda it: -it[1]))
        left = ", ".join(f"{count} {what}" for what, count in self.left.items() if count) or "nothing"
        return "\n".join(
            [
                f"{self.exchanges} exchanges in {self.seconds:.0f} s: {ends}",
                f"resident memory since the warm-up: {self.grown / 1024:+.1f} MiB",
                f"descriptors: {self.descriptors:+d}; left: {left}",
                f"exit status {self.status}; errors in the log: {len(self.errors)}; wrong answers: {len(self.wrong)}",
                *self.wrong[:10],
                *self.errors[:3],
            ]
        )


def prompt(number: int) -> bytes:
    """One of many conversations; each tenth is long."""
    text = f"conversation {number % 211} " + "word " * (20_000 if number % 10 == 0 else 20)
    return json.dumps({"contents": [{"role": "user", "parts": [{"text": text}]}]}).encode()


def judge(seen: Seen | None, framing: str) -> str:
    """What has become of an answer, by its bytes alone."""
    if seen is None:
        return "nothing"
    if seen.status != 200:
        return str(seen.status) if seen.complete and "error" in json.loads(seen.body) else "half an error"
    if seen.complete:
        return "complete" if b'"STOP"' in seen.body else "truncated, and looks complete"
    if framing == "sse" and "error" not in seen.events[-1]:
        return "cut without a word"
    return "cut"


class Worker:
    """One client after the other, and now and then one that stays for several exchanges."""

    def __init__(self, url: str, seed: int, counters: Counters) -> None:
        self._url = url
        self._random = random.Random(seed)
        self._counters = counters
        self._kept: Client | None = None

    def run(self, exchanges: int) -> None:
        """Make so many."""
        for _ in range(exchanges):
            try:
                if self._random.randrange(100) < OWN_SHARE:
                    self._own(*self._random.choice(OWN))
                else:
                    self._exchange(self._random.choices(SORTS, [sort.weight for sort in SORTS])[0])
            except (OSError, AssertionError, ValueError) as e:
                self._counters.wrong.append(f"{type(e).__name__}: {e}")
        self.close()

    def close(self) -> None:
        """Leave."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _own(self, request: bytes, expected: str) -> None:
        client = Client(self._url)
        client.send(request)
        seen = client.finish()
        client.close()
        self._count(str(seen.status) if seen is not None and seen.complete else "nothing", {expected}, "its own")

    def _exchange(self, sort: Sort) -> None:
        target = _CALLS[sort.framing].format(sort.model)
        if sort.leaves:
            self._leave(sort, target)
            return
        keeps = self._random.random() < 0.7
        client = (self._kept if keeps else None) or Client(self._url)
        self._kept = client if keeps else self._kept
        client.received = b""
        body = prompt(self._random.randrange(10_000))
        if self._random.random() < 0.1:
            client.post(target, gzip.compress(body, 1), "Content-Encoding: gzip")
        else:
            client.post(target, body)
        seen = client.finish()
        if not keeps or client.ended or client.broken or seen is None or not seen.complete:
            client.close()
            self._kept = None if client is self._kept else self._kept
        self._count(judge(seen, sort.framing), sort.ends, f"{sort.framing} {sort.model}")

    def _leave(self, sort: Sort, target: str) -> None:
        client = Client(self._url)
        client.post(target, PROMPT)
        if sort.leaves == "middle":
            client.until(b"candidates")
        else:
            time.sleep(0.02)
        if self._random.random() < 0.5:
            client.close()
        else:
            client.reset()
        self._counters.ends[f"left {sort.leaves}"] += 1

    def _count(self, end: str, expected: set[str] | frozenset[str], what: str) -> None:
        self._counters.ends[end] += 1
        if end not in expected:
            self._counters.wrong.append(f"{what}: {end}, expected {' or '.join(sorted(expected))}")


def rush(url: str, exchanges: int, clients: int, seed: int, counters: Counters) -> None:
    """Make so many exchanges from so many clients at once."""
    shares = [exchanges // clients + (number < exchanges % clients) for number in range(clients)]
    threads = [
        threading.Thread(target=Worker(url, seed * 1000 + number, counters).run, args=(share,))
        for number, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def held(url: str) -> dict[str, int]:
    """What the gateway holds."""
    answer = ask(url, "/inside")
    assert answer is not None, "the gateway does not answer"
    assert answer[0] == 200, answer
    counts: dict[str, int] = json.loads(answer[1])
    return counts


def quiet(url: str, patience: float = 10.0) -> dict[str, int]:
    """What it holds once nothing is under way, or after `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        counts = held(url)
        passing = counts["leases"] + counts["waiting"] + counts["used"] + counts["Relay"] + counts["clients"] - 1
        if not passing or time.monotonic() > until:
            return counts
        time.sleep(0.1)


def descriptors(twistd: Twistd) -> int:
    """How many the process has open beside the idle connections to its upstream, once that has not changed for 2 s."""
    seen: list[int] = []
    while len(seen) < 10 or (len(set(seen[-10:])) > 1 and len(seen) < 100):
        idle = held(twistd.url())["idle"]
        seen.append(len(os.listdir(f"/proc/{twistd.process.pid}/fd")) - idle)
        time.sleep(0.2)
    return seen[-1]


def run(exchanges: int, *, clients: int = 8, seed: int = 1, show: bool = False) -> Report:
    """Soak a gateway."""
    counters = Counters()
    began = time.monotonic()
    with ExitStack() as stack:
        upstream = stack.enter_context(emulator())
        accounts = "".join(account(upstream, kind, kind) for kind in KINDS)
        variables = {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        twistd = stack.enter_context(gateway(CONFIG + accounts, "--plugin", "inside", env=variables))
        url, pid = twistd.url(), twistd.process.pid
        warm = int(exchanges * WARM_UP)
        rush(url, warm, clients, seed + 1, counters)
        base = quiet(url)
        base_descriptors = descriptors(twistd)
        memory = rss_kib(pid)
        rest = exchanges - warm
        for part in range(10):
            rush(url, rest // 10 + (part < rest % 10), clients, seed + 3 + part, counters)
            if show:
                held(url)
                print(
                    f"{warm + rest * (part + 1) // 10:8} exchanges: {(rss_kib(pid) - memory) / 1024:+.1f} MiB",
                    flush=True,
                )
        counts = quiet(url)
        left = {what: counts[what] - base[what] for what in counts if what not in ("idle", "timers")}
        left["timers"] = max(counts["timers"] - base["timers"], 0)
        grown = rss_kib(pid) - memory
        more = descriptors(twistd) - base_descriptors
        status = twistd.stop()
        signs = ("Traceback", "Unhandled", "CRITICAL", "#critical")
        errors = [line for line in twistd.log.splitlines() + twistd.errors if any(sign in line for sign in signs)]
    return Report(exchanges, time.monotonic() - began, grown, more, left, counters.ends, counters.wrong, status, errors)


def main() -> int:
    """Soak, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8, help="how many ask at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=2.0, help="MiB that memory may grow by after the warm-up")
    options = parser.parse_args()
    report = run(options.exchanges, clients=options.clients, seed=options.seed, show=True)
    print(report.table())
    return not report.holds(options.limit)


if __name__ == "__main__":
    raise SystemExit(main())
