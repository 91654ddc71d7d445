"""
``agm forecast``: when accounts are back, and when at this pace the others, budgets and daily limits are used up.

It asks the running gateway once and changes nothing.  Times are local.
"""

import argparse
import datetime
from collections.abc import Mapping
from typing import Any

from agm.cli.account import columns
from agm.cli.running import add_options, find_running, json_text, printable
from agm.cli.status import NOBODY

__all__ = ["add_parser", "run"]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``forecast``."""
    what = "tell when accounts are back, and when at this pace the others are out"
    parser = subparsers.add_parser(
        "forecast",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm forecast\n  agm forecast --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, offline=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it; 0, or 1 where no gateway runs or answers."""
    running = find_running(args, NOBODY)
    if running is None:
        return 1
    found = running.ask("/_agm/forecast")
    print(json_text(found) if args.json else text(found))
    return 0


def text(found: Mapping[str, Any]) -> str:
    """Return the forecast as plain text: a sentence for each model, then what else comes to an end."""
    from agm.core.forecast import sentence

    now: float = found["at"]
    clock = _clock(now)
    rows = [
        {"model": printable(of["model"]), "forecast": printable(sentence(of, now, clock))} for of in found["models"]
    ]
    parts = [columns(rows)] if rows else ["no account, and so nothing to forecast"]
    budgets = [
        {
            "budget": printable(it["of"]),
            "spent": f"${it['spent']:,.2f} of ${it['limit']:,.2f} a {it['per']}",
            "forecast": _end(it, clock),
        }
        for it in found["budgets"]
    ]
    limits = [
        {
            "key": printable(it["name"]),
            "limit": f"{it['used']:,} of {it['value']:,} {it['limit'].replace('_per_day', ' a day')}",
            "forecast": _end(it, clock),
        }
        for it in found["client_keys"]
    ]
    return "\n\n".join([*parts, *(columns(each) for each in (budgets, limits) if each)])


def _end(it: Mapping[str, Any], clock: Any) -> str:
    """Say when something is used up at this pace."""
    begins = f"begins anew at {clock(it['begins_at'])}"
    if it["out_in"] is None:
        return f"no end in sight; {begins}"
    return f"used up; {begins}" if it["out_in"] <= 0 else f"at this pace used up at {clock(it['out_at'])}; {begins}"


def _clock(now: float) -> Any:
    today = datetime.datetime.fromtimestamp(now).date()

    def write(at: float) -> str:
        when = datetime.datetime.fromtimestamp(at)
        return when.strftime("%H:%M" if when.date() == today else "%Y-%m-%d %H:%M")

    return write
