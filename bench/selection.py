#!/usr/bin/env python3
"""
What choosing an account costs, by the number of accounts: a candidate picked by the strategy, leased, given back.

usage: python bench/selection.py [--rounds 7] [--picks 2000]

CPU time of this process for each pick, in microseconds: the median of rounds taken in turn, and the ratio to ten
accounts.  Each account serves one request at most and eight are under way, so that every pick also takes an account out
and puts one back.  Ends with status 1 if 10,000 accounts cost more than twice what 10 cost.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import deque
from statistics import median

from calls import call

from agm.config import parse
from agm.core.pool.lease import Lease
from agm.core.pool.pool import Pool
from agm.core.request import Account, GatewayRequest
from agm.plugins.builtin.strategies import Strategies

STRATEGIES = ("sticky", "round-robin", "least-loaded", "priority")
SIZES = (10, 100, 1_000, 10_000)
METHOD = "generateContent"


class Bench:
    """A pool of so many accounts, and a strategy."""

    def __init__(self, strategy: str, size: int) -> None:
        self.pool = Pool(
            [
                Account(f"a{n}", "api-key", ("https://upstream",), priority=n % 3, max_concurrency=1)
                for n in range(size)
            ],
            time.monotonic,
        )
        self.strategies = Strategies()
        self.strategies.agm_configure(parse(f'[pool]\nstrategy = "{strategy}"\n', environ={}))
        self.out: deque[Lease] = deque()

    def pick(self, requests: list[GatewayRequest]) -> float:
        """CPU microseconds a pick."""
        pool, out = self.pool, self.out
        gc.collect()
        began = time.process_time()
        for request in requests:
            candidates = pool.candidates(request.model, METHOD)
            choice = self.strategies.agm_select_account(candidates, request, pool.loads())
            assert choice.account in candidates
            lease = pool.lease(choice.account, request.model)
            lease.next_endpoint()
            pool.endpoint_answered("https://upstream", request.model, good=True)
            pool.succeeded(choice.account, request.model, lease)
            out.append(lease)
            if len(out) > 8:
                out.popleft().release()
        return (time.process_time() - began) * 1e6 / len(requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--picks", type=int, default=2000)
    args = parser.parse_args()
    requests = [call(f"conversation {n % 500}") for n in range(args.picks)]
    for request in requests:
        assert request.body.fingerprint  # read once, as in a request's life
    print(f"{'strategy':14}" + "".join(f"{size:>9,} accounts" for size in SIZES) + f"{'ratio to 10':>26}")
    worst = 0.0
    for strategy in STRATEGIES:
        benches = [Bench(strategy, size) for size in SIZES]
        rounds = [[bench.pick(requests) for bench in benches] for _ in range(args.rounds + 1)][1:]
        figures = [median(column) for column in zip(*rounds, strict=True)]
        ratios = [median(row[i] / row[0] for row in rounds) for i in range(len(SIZES))]
        worst = max(worst, ratios[-1])
        shown = "".join(f"{figure:>15.1f} µs" for figure in figures)
        print(f"{strategy:14}{shown}{'  '.join(f'{r:.2f}' for r in ratios[1:]):>26}")
    print(f"\n10,000 accounts cost at most {worst:.2f} times what 10 cost; 2 are allowed")
    raise SystemExit(worst > 2)


if __name__ == "__main__":
    main()
