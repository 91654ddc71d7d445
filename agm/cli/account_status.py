"""
How the accounts of a running gateway stand, for ``agm account list``: who rests, for how long, and why.

The gateway knows; this asks it and puts the answer into words.  Where none runs, nothing is said about it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agm.cli.files import Refused
from agm.cli.running import find_running, is_meant, printable
from agm.core.words import counted

__all__ = ["STATES", "details", "duration", "standing", "summary"]

#: How a person reads the states that the gateway tells programs.
STATES = {"resting": "cooling down", "probe due": "half-open"}


def standing(args: argparse.Namespace) -> Mapping[str, Mapping[str, Any]] | None:
    """Ask the running gateway for the state of its accounts, by name; None if there is no answer."""
    running = find_running(args, None)
    if running is None:
        return None
    try:
        found = running.ask("/_agm/accounts")
    except Refused as refusal:
        print(f"the running gateway does not report the state of its accounts: {refusal}", file=sys.stderr)
        return None
    return {account["name"]: account for account in found["accounts"]} if is_meant(found, args) else None


def summary(account: Mapping[str, Any] | None) -> str:
    """Return a word or two."""
    if account is None:
        return "not in the running gateway"
    if account["disabled"] is not None:
        return "disabled"
    if (held := account.get("held")) is not None and held["state"] != "probe due":
        return f"set aside, {duration(held['seconds_left'])} left"
    limit = account["max_concurrency"]
    if limit is not None and account["in_flight"] >= limit:
        return "full"
    count = len(account["models"])
    return "ready" if not count else f"ready but for {counted(count, 'model')}"


def details(account: Mapping[str, Any]) -> Sequence[str]:
    """Return a line for each thing that there is to say."""
    lines = []
    if account["disabled"] is not None:
        lines.append(f"disabled: {account['disabled']}")
        lines += _advice(account.get("held") or {})
    for model in account["models"]:
        left = model["seconds_left"]
        time = "" if left is None or model["state"] == "probe due" else f", {duration(left)} left"
        name = "all models" if model["model"] == "*" else model["model"]
        lines.append(f"{name}: {STATES.get(model['state'], model['state'])}{time} ({model['reason']})")
        lines += _advice(model)
    lines += [
        f"{quota['model']}: {quota['remaining']:.0%} of its quota left, known for {duration(quota['seconds_left'])} yet"
        for quota in account["quotas"]
    ]
    last = account["last_failure"]
    if last is not None:
        status = "no answer" if last["status"] is None else last["status"]
        lines.append(
            f"last failure {duration(last['seconds_ago'])} ago: {status}, {last['reason']}, for {last['model']}"
        )
    return [printable(line) for line in lines]


def _advice(rest: Mapping[str, Any]) -> Sequence[str]:
    """List Google's message about a cooldown, its link and the fix."""
    found = (("Google says", "message"), ("see", "link"), ("fix", "fix"))
    if not rest.get("fix"):  # it ends by itself, and nothing has to be read for that
        return []
    return [f"  {label}: {rest[key]}" for label, key in found if rest.get(key)]


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``; rounded up, so that nobody comes back too early."""
    whole = -int(-seconds // 1)
    if whole < 120:
        return f"{whole} s"
    minutes = -(-whole // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
