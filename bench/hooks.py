#!/usr/bin/env python3
"""
What hooks cost: CPU of the gateway for a request without plugins, with plugins that do nothing, and with some that do.

usage: python bench/hooks.py [--requests 2000] [--rounds 5] [--rows "answer cache,gateway.call"] [--check]

A gateway for each row of the table, measured in turn in one run; the ratio is to the gateway without plugins, the
median of the rounds.  ``--check`` makes the status 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import attrs
from harness import STREAM, UNARY, account, gateway, ratio, rounds, upstream

DECISIONS = """
from agm import hookimpl

@hookimpl
def agm_map_model(model, request):
    return None

@hookimpl
def agm_filter_accounts(accounts, request):
    return None

@hookimpl
def agm_select_account(accounts, request, loads):
    return None

@hookimpl
def agm_wrap_request(request, account, body):
    return None

@hookimpl
def agm_attempt_finished(attempt):
    return None

@hookimpl
def agm_request_finished(record):
    return None
"""
BODIES = "from agm import hookimpl\n\n@hookimpl\ndef agm_transform_request(body, request):\n    return None\n"
EVENTS = "from agm import hookimpl\n\n@hookimpl\ndef agm_transform_event(event, request):\n    return None\n"

CALLS = """
from agm.api import ApiResource, Framing, hookimpl

class Call(ApiResource):
    methods = ("POST",)

    async def respond(self, visit):
        stream = visit.query.get("alt") == "sse"
        method = "streamGenerateContent" if stream else "generateContent"
        answer = await self.gateway.call("gemini-2.5-flash", visit.wire.body, method=method, visit=visit)
        kind = b"text/event-stream" if stream else b"application/json"
        visit.wire.send(answer.status, [(b"Content-Type", kind)], await answer.read())

@hookimpl
def agm_resources(site):
    return {"call": Call(site.gateway, site.access)}
"""
CACHE = "agm.contrib.answer_cache"
#: A cache that is always full: each request is a miss, whose answer is kept, and the oldest goes.
FULL = "[plugins.answer_cache]\nmax_bytes = 0\n"


@attrs.frozen
class Row:
    """What is loaded and configured, what is asked for, and the ratio that it may come to."""

    plugins: tuple[str, ...] = ()
    settings: str = ""
    unary: str = UNARY
    stream: str = STREAM
    goal: float | None = None


#: The rows by name; the first is what the others are compared with.
ROWS = {
    "no plugin": Row(),
    "no plugin, again": Row(goal=1.02),
    "one plugin, every decision and observer": Row(("decisions0",)),
    "ten such plugins": Row(tuple(f"decisions{n}" for n in range(10))),
    "a plugin that may edit bodies": Row(("bodies",)),
    "a plugin that may edit events": Row(("events",)),
    "answer cache, a miss": Row((CACHE,), FULL, goal=1.05),
    "answer cache, a hit": Row((CACHE,)),
    "gateway.call in a resource": Row(("calls",), unary="/call", stream="/call?alt=sse", goal=1.3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--requests", type=int, default=2000, help="requests a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", default="", help="only those with one of these words in their names, and the first")
    parser.add_argument("--check", action="store_true", help="fail where a goal is missed")
    args = parser.parse_args()
    words = [word.strip() for word in args.rows.split(",") if word.strip()]
    rows = {name: row for name, row in ROWS.items() if not words or row == Row() or any(w in name for w in words)}
    missed = False
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(10):
            (folder / f"decisions{number}.py").write_text(DECISIONS)
        (folder / "bodies.py").write_text(BODIES)
        (folder / "events.py").write_text(EVENTS)
        (folder / "calls.py").write_text(CALLS)
        url = stack.enter_context(upstream(events=20))
        env = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
        gateways = [
            stack.enter_context(
                gateway(account(url) + row.settings, *[f"--plugin={name}" for name in row.plugins], env=env)
            )
            for row in rows.values()
        ]
        print(f"{'':45} {'unary':>18} {'stream, 20 events':>22}")
        targets = [(row.unary, row.stream) for row in rows.values()]
        unary = rounds(gateways, [unary for unary, _ in targets], requests=args.requests, count=args.rounds)
        stream = rounds(gateways, [stream for _, stream in targets], requests=args.requests // 4, count=args.rounds)
        for number, (name, row) in enumerate(rows.items()):
            figures = []
            for found in (unary, stream):
                times = ratio(found[number], found[0])
                missed = missed or (row.goal is not None and times > row.goal)
                figures.append(f"{median(found[number]):8.0f} µs  x {times:.2f}")
            goal = "" if row.goal is None else f"   at most {row.goal}"
            print(f"{name:45} {figures[0]:>18} {figures[1]:>22}{goal}")
    if args.check and missed:
        raise SystemExit("a goal is missed")


if __name__ == "__main__":
    main()
