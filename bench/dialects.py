#!/usr/bin/env python3
"""
What a dialect costs: CPU of the gateway for a request of OpenAI's or Anthropic's API, beside the same of Google's.

usage: python bench/dialects.py [--requests 2000] [--rounds 5] [--check]

One gateway, asked in turn; the ratio is to Google's own API.  With --check the status is 1 where a request costs more
than 1.5 times as much, or an event of a stream more than 2 times.
"""

from __future__ import annotations

import argparse
import json
from statistics import median

from harness import PROMPT, STREAM, UNARY, account, cpu_seconds, gateway, load, ratio, upstream

MODEL = "gemini-2.5-flash"
EVENTS = 20
SAID = "Hello, how are you today?"
MESSAGES = [{"role": "user", "content": SAID}]
#: Each API: the target and the body of a call, and of a stream.
ROWS = {
    "Google": ((UNARY, PROMPT), (STREAM, PROMPT)),
    "OpenAI, chat completions": tuple(
        ("/v1/chat/completions", json.dumps({"model": MODEL, "messages": MESSAGES, "stream": stream}).encode())
        for stream in (False, True)
    ),
    "OpenAI, responses": tuple(
        ("/v1/responses", json.dumps({"model": MODEL, "input": SAID, "stream": stream}).encode())
        for stream in (False, True)
    ),
    "Anthropic, messages": tuple(
        (
            "/v1/messages",
            json.dumps({"model": MODEL, "max_tokens": 1000, "messages": MESSAGES, "stream": stream}).encode(),
        )
        for stream in (False, True)
    ),
}
#: What a call and an event may cost, of what Google's cost.
GOALS = (1.5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--requests", type=int, default=2000, help="requests a round; a quarter of them for streams")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ROWS}
    with upstream(events=EVENTS) as url, gateway(account(url)) as it:
        for number in range(args.rounds + 1):
            for name, row in ROWS.items():
                for at, (target, prompt) in enumerate(row):
                    requests = args.requests // (4 if at else 1)
                    before = cpu_seconds(it.process.pid)
                    load(it.url(), target, requests, prompt=prompt)
                    if number:  # the first round warms up
                        cost = (cpu_seconds(it.process.pid) - before) * 1e6 / requests
                        found[name][at].append(cost / (EVENTS if at else 1))
    print(f"{'':28} {'a call':>18} {'an event':>20}")
    missed = False
    for name, figures in found.items():
        cells = []
        for at, goal in enumerate(GOALS):
            times = ratio(figures[at], found["Google"][at])
            missed = missed or times > goal
            cells.append(f"{median(figures[at]):8.1f} µs  x {times:.2f}")
        print(f"{name:28} {cells[0]:>18} {cells[1]:>20}")
    raise SystemExit(1 if args.check and missed else 0)


if __name__ == "__main__":
    main()
