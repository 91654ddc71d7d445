#!/usr/bin/env python3
"""
A storm through the real process: 2,000 requests over 20 accounts that fail in every way.

usage: python bench/storm.py [--requests 2000] [--accounts 20] [--clients 24] [--seed 1]

Starts an emulator and a gateway as processes.  The accounts are Gemini API keys, Vertex AI and Code Assist accounts, a
half of them with tokens of the emulator's token endpoint, which is slow for some, and all tokens end twice in between.
By a script each account answers with short, long and daily 429s, 401, 403, 404, 5xx, empty answers, connections that
drop before or after the first byte, and slow streams.

Prints what reached each account, and status 1 if a promise was broken:

- every request is served, but those that broke off at an upstream when it may have acted on them;
- no request is sent again after its first byte, or when an upstream may have acted on it;
- an account fetches at most one token for each expiry;
- an answer that broke off never looks complete;
- every account has all of its leases back;
- the log of the gateway holds no traceback, and it stops with status 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testbed import storms  # found through the line above


def main() -> int:
    parser = argparse.ArgumentParser(description="A storm through the real process.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--accounts", type=int, default=20)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    plan = storms.Plan(accounts=args.accounts, requests=args.requests, clients=args.clients, seed=args.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = storms.run(plan, Path(folder))
    print(report.table())
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
