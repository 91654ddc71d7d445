#!/usr/bin/env python3
"""
What many accounts or many client keys cost: CPU a request with 10,000 of them, beside that with 10.

usage: python bench/scaling.py [--many 10000] [--rounds 5] [--secs 3] [--check] [--json FILE]

Two gateways for each row, measured in turn.  With many accounts each strategy is measured, with prompts of one
conversation; with many client keys each request shows the next one, and every second key has limits.  What a pick alone
costs, without a request around it, is what bench/selection.py prints.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from contextlib import ExitStack

from contest import fast_upstream, wrk
from figures import Figure, compare, finish, parser
from harness import UNARY, account, cpu_seconds, gateway
from selection import STRATEGIES

FEW = 10


def accounts(upstream: str, count: int, strategy: str) -> str:
    """A configuration with so many accounts, of three priorities."""
    tables = (f"{account(upstream, name=f'a{n}')}priority = {n % 3}\n" for n in range(count))
    return f'[pool]\nstrategy = "{strategy}"\n' + "".join(tables)


def key_of(number: int) -> str:
    """A client key."""
    return f"bench-client-key-{number:06}"


def client_keys(upstream: str, count: int) -> str:
    """A configuration with so many client keys."""
    limits = "requests_per_minute = 10000000\ntokens_per_day = 1000000000\n"
    tables = (f'[[auth.keys]]\nname = "k{n}"\nkey = "{key_of(n)}"\n{limits if n % 2 else ""}' for n in range(count))
    return '[auth]\nmode = "strict"\n' + "".join(tables) + account(upstream)


def beside(name: str, few: str, many: str, keys: tuple[list[str], list[str]], options: Namespace) -> Figure:
    """One row: two configurations, and the keys that their clients show."""
    found: dict[str, list[float]] = {"many": [], "few": []}
    with ExitStack() as stack:
        gateways = [stack.enter_context(gateway(configuration)) for configuration in (many, few)]
        for number in range(options.rounds + 1):
            for figures, twistd, shown in zip(found.values(), gateways, keys[::-1], strict=True):
                before = cpu_seconds(twistd.process.pid)
                done = wrk(twistd.url(), UNARY, connections=32, seconds=options.secs, keys=shown)
                if number:
                    figures.append((cpu_seconds(twistd.process.pid) - before) * 1e6 / done)
    return compare(name, "µs a request", found, against="few", goal=1.2)


def measure(options: Namespace) -> list[Figure]:
    """A figure for each strategy, and one for client keys."""
    with fast_upstream() as upstream:
        found = [
            beside(
                f"{options.many:,} accounts beside {FEW}, {strategy}",
                accounts(upstream, FEW, strategy),
                accounts(upstream, options.many, strategy),
                ([], []),
                options,
            )
            for strategy in STRATEGIES
        ]
        keys = ([key_of(n) for n in range(FEW)], [key_of(n) for n in range(options.many)])
        few, many = client_keys(upstream, FEW), client_keys(upstream, options.many)
        found.append(beside(f"{options.many:,} client keys beside {FEW}", few, many, keys, options))
    return found


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__, seconds=3.0)
    made.add_argument("--many", type=int, default=10_000, help="accounts, and client keys (default: 10000)")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    return finish(measure(chosen), chosen)


if __name__ == "__main__":
    sys.exit(main())
