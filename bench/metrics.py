"""
What metrics cost: a call's count on the reactor's thread, and a scrape with many accounts and many series.

    python bench/metrics.py

It fails where counting a call takes more than 10 microseconds, which is what docs/metrics.md promises with room to
spare.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import attrs
from calls import call
from twisted.internet.task import Clock

from agm.config import parse
from agm.core.classify import Fault, Verdict
from agm.core.counters import Counters
from agm.core.request import AttemptRecord, RequestRecord
from agm.core.wire.usage import Usage
from agm.serving.assemble import make_gateway

LIMIT = 10e-6
CALLS = 100_000
ROUNDS = 5
ACCOUNTS = 1000


def records() -> list[RequestRecord]:
    """Calls as they are: most go well at the first attempt, some at the second, some are streams."""
    request: Any = call()
    tried = AttemptRecord("1", 1, "account-1", "first", "https://x", "gemini-2.5-pro", 0.0, 0.4, 0.4, 200, None)
    failed = attrs.evolve(tried, verdict=Verdict(Fault.RATE, "RATE_LIMIT_EXCEEDED", 30.0), status=429)
    usage = Usage(prompt=900, output=300, cached=100, thoughts=50, total=1250)
    good = RequestRecord(request, 0.0, 2.5, 0.4, 200, "ok", 4000, (tried,), "account-1", usage, "STOP")
    second = attrs.evolve(good, attempts=(failed, attrs.evolve(tried, number=2)))
    return [good, good, good, second]


def main() -> int:
    """Measure, print, and say whether the limit holds."""
    config = "\n".join(
        f'[[accounts]]\nname = "account-{n}"\nkind = "api-key"\napi_key = "k"\n' for n in range(ACCOUNTS)
    )
    gateway = make_gateway(Clock(), parse(config, environ={}), "off")
    counters: Counters = gateway.counters
    calls = records()
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for number in range(CALLS):
            counters.finished(calls[number & 3])
        best = min(best, (time.perf_counter() - began) / CALLS)
    print(f"a call's count: {best * 1e6:.2f} µs (limit {LIMIT * 1e6:g})")
    for named in (False, True):
        gateway.config = attrs.evolve(gateway.config, metrics=attrs.evolve(gateway.config.metrics, accounts=named))
        began = time.perf_counter()
        body = gateway.metrics.expose("").body
        took = time.perf_counter() - began
        lines = sum(not line.startswith(b"#") for line in body.splitlines())
        print(f"a scrape, {ACCOUNTS} accounts{' by name' if named else ''}: {took * 1e3:.1f} ms, {lines} series")
    return int(best > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
