#!/usr/bin/env python3
"""
What hooks cost: CPU of the gateway for a request without plugins, and with plugins that do nothing.

usage: python bench/hooks.py [--requests 2000] [--rounds 5]

A gateway for each row of the table, measured in turn in one run; the ratio is to the gateway without plugins.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

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

#: The rows: what is loaded, by name.
ROWS = {
    "no plugin": [],
    "one plugin, every decision and observer": ["decisions0"],
    "ten such plugins": [f"decisions{n}" for n in range(10)],
    "a plugin that may edit bodies": ["bodies"],
    "a plugin that may edit events": ["events"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--requests", type=int, default=2000, help="requests a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number in range(10):
            (folder / f"decisions{number}.py").write_text(DECISIONS)
        (folder / "bodies.py").write_text(BODIES)
        (folder / "events.py").write_text(EVENTS)
        url = stack.enter_context(upstream(events=20))
        env = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}
        gateways = [
            stack.enter_context(gateway(account(url), *[f"--plugin={name}" for name in names], env=env))
            for names in ROWS.values()
        ]
        print(f"{'':45} {'unary':>18} {'stream, 20 events':>22}")
        unary = rounds(gateways, UNARY, requests=args.requests, count=args.rounds)
        stream = rounds(gateways, STREAM, requests=args.requests // 4, count=args.rounds)
        for number, name in enumerate(ROWS):
            figures = []
            for found in (unary, stream):
                figures.append(f"{median(found[number]):8.0f} µs  x {ratio(found[number], found[0]):.2f}")
            print(f"{name:45} {figures[0]:>18} {figures[1]:>22}")


if __name__ == "__main__":
    main()
