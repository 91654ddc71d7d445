"""
``agm cluster``: the machines and workers that are one gateway, their versions, and whether they agree.

It asks the running gateway once and changes nothing.
"""

import argparse
import sys
from typing import Any

from agm.cli.account import columns
from agm.cli.account_status import duration
from agm.cli.running import add_options, find_running, json_text, printable
from agm.cli.status import NOBODY, another_version

__all__ = ["add_parser", "run"]

_COLUMNS = ("machine", "worker", "pid", "version", "up", "configuration", "accounts", "in flight", "requests")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``cluster``."""
    what = "list the machines and workers of the running gateway, and whether they agree"
    parser = subparsers.add_parser(
        "cluster",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.  Status 1 if they do not.",
        epilog="example:\n  agm cluster\n  agm cluster --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, offline=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it; 0, or 1 where they do not agree, or where no gateway runs or answers."""
    running = find_running(args, NOBODY)
    if running is None:
        return 1
    found = running.ask("/_agm/cluster")
    try:
        print(json_text(found) if args.json else text(found))
        return 0 if found["agree"] else 1
    except (KeyError, TypeError, IndexError):
        print(another_version(found), file=sys.stderr)
        return 1


def text(document: dict[str, Any]) -> str:
    """Return the document as plain text."""
    rows = [
        (
            machine["machine"],
            it["worker"],
            it["pid"],
            it["version"],
            duration(it["uptime"]),
            it["configuration"],
            it["accounts"],
            it["open"],
            it["requests"],
        )
        for machine in document["machines"]
        for it in machine["workers"]
    ]
    lines = columns([dict(zip(_COLUMNS, map(_cell, row), strict=True)) for row in rows]).split("\n")
    lines += [printable(f"not in agreement: {line}") for line in document["differences"]]
    return "\n".join(lines if document["differences"] else [*lines, "all agree"])


def _cell(value: object) -> str:
    return printable(str(value))
