"""
``agm status``: what runs, how its accounts stand, what it is doing, and what went wrong last, on one screen.

It asks the running gateway once and changes nothing.
"""

import argparse
import sys

from agm import __version__
from agm.cli.account import columns
from agm.cli.overview import Overview
from agm.cli.running import add_options, find_running, json_text, printable

__all__ = ["NOBODY", "add_parser", "add_worker", "another_version", "of_worker", "run", "text"]

#: What to do where no gateway runs.
NOBODY = "`twistd -n agm` starts one"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``status``."""
    what = "show the state of the running gateway"
    parser = subparsers.add_parser(
        "status",
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="example:\n  agm status\n  agm status --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser, offline=False)
    add_worker(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Show it; 0, or 1 where no gateway runs or answers."""
    running = find_running(args, NOBODY)
    if running is None:
        return 1
    found = running.ask(f"/_agm/status{of_worker(args.worker)}")
    try:
        print(json_text(found) if args.json else text(Overview(found, running.address)))
    except (KeyError, TypeError, IndexError):
        print(another_version(found), file=sys.stderr)
        return 1
    return 0


def add_worker(parser: argparse.ArgumentParser) -> None:
    """Add ``--worker``."""
    parser.add_argument("--worker", type=int, metavar="N", help="of one worker alone; else of all together")


def of_worker(number: int | None) -> str:
    """Return the query that names a worker."""
    return "" if number is None else f"?worker={number}"


def another_version(found: object) -> str:
    """Explain that the running gateway is another version, whose document this command cannot read."""
    gateway = found.get("gateway") if isinstance(found, dict) else None
    version = gateway.get("version") if isinstance(gateway, dict) else None
    return printable(
        f"the running gateway is agm {version or 'of an unknown version'}, this command is agm {__version__}: "
        "run the command that was installed with the gateway, or start the gateway again"
    )


def text(overview: Overview) -> str:
    """Return the overview as plain text."""
    lines = list(overview.head)
    for section in overview.sections:
        lines += ["", section.heading]
        if section.rows:
            lines += columns([dict(zip(section.columns, row, strict=True)) for row in section.rows]).split("\n")
        lines += section.below
    return "\n".join(lines)
