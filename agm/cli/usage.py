"""
``agm usage``: how many requests and tokens there were, and what they cost, by client key, team, account, model, day or
hour.

It sums up the request log, which is read as a file: it makes no difference whether a gateway runs.
"""

import argparse
import csv
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from agm.cli.account import columns
from agm.cli.files import Refused
from agm.cli.log import add_filters, add_place, filter_of, open_log, path_of
from agm.cli.running import add_options, json_text, printable
from agm.core.money import dollars, known
from agm.core.words import counted

__all__ = ["add_parser", "run"]

_GROUPS = ("key", "team", "account", "model", "day", "hour")
_EXAMPLES = """\
examples:
  agm usage
  agm usage --by day --since 30d --key laptop
  agm usage --by team --since 2026-12-01 --cost
  agm usage --by model --csv > usage.csv"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``usage``."""
    what = "sum up requests, tokens and costs by client key, team, account, model or day"
    parser = subparsers.add_parser(
        "usage",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--by", choices=_GROUPS, default="key", help="the grouping; default: key")
    parser.add_argument("--cost", action="store_true", help="with what they cost in US dollars, by list prices")
    add_filters(parser)
    add_place(parser)
    add_options(parser, offline=False, as_json=False)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--csv", action="store_true", help="as CSV")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sum up; 0, or 1 with the reason why not."""
    from agm.observe.requestlog import store as logfile

    connection = open_log(path_of(args))
    try:
        found = logfile.totals(connection, args.by, filter_of(args), cost=args.cost)
    except sqlite3.Error as e:
        raise Refused(f"the request log cannot be read: {e}") from None
    finally:
        connection.close()
    if args.json:
        print(json_text(found))
    elif not found:
        print("no request", file=sys.stderr)
    elif args.csv:
        writer = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, args.by: None if row[args.by] is None else printable(row[args.by])} for row in found)
    else:
        print(_table(args.by, found))
        unpriced = sum(row.get("unpriced", 0) for row in found)
        if unpriced:
            print(
                f"the cost of {counted(unpriced, 'request')} is not known and in no sum: "
                "agm usage --by model --cost shows their models; [prices] in the configuration says what they cost",
                file=sys.stderr,
            )
    return 0


def _table(by: str, found: Sequence[Mapping[str, Any]]) -> str:
    rows = list(found)
    if len(found) > 1:
        sums = {name: sum(row[name] or 0 for row in found) for name in found[0] if name != by}
        if "cost" in sums:
            sums["cost"] = known(sums["cost"], sums["unpriced"])
        rows.append({by: "total", **sums})
    shown = [
        {by: "-" if row[by] is None else printable(row[by])}
        | {
            name.removesuffix("_tokens"): dollars(row[name]) if name == "cost" else f"{row[name]:,}"
            for name in row
            if name != by and not name.startswith("bytes_")
        }
        for row in rows
    ]
    return columns(shown)
