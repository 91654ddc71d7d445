"""``agm ui``: opens the dashboard of the running gateway in a browser, and prints where it is."""

import argparse
import os
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager

from agm.cli.files import Refused
from agm.cli.running import Running, add_options, address_of, find_running

__all__ = ["add_parser", "run"]

#: Seconds between two looks for a gateway that is being started.
_PAUSE = 0.1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``ui``."""
    what = "open the dashboard of the running gateway in a browser"
    parser = subparsers.add_parser(
        "ui",
        help=what,
        description=f"{what[0].upper()}{what[1:]}, and print its address.",
        epilog="example:\n  agm ui\n  agm ui --no-browser --url http://127.0.0.1:8046",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=0.0, help="wait this long for a gateway that is being started"
    )
    parser.add_argument("--listen", metavar="ENDPOINT", action="append", default=[], help=argparse.SUPPRESS)
    add_options(parser, offline=False, as_json=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Open the page; 0, or 1 if no gateway runs or it cannot be reached by a browser."""
    if args.url is None and args.listen:
        args.url = address_of(args.listen)
    running = _found(args)
    if running is None:
        raise Refused("no gateway runs here; `agm serve` starts one, and --url names another place")
    if running.address.startswith("unix:"):
        raise Refused(
            f"{running.address}: a browser does not reach a unix socket; add a TCP listener on loopback to [gateway]"
            " listen"
        )
    page = f"{running.address.rstrip('/')}/"
    print(page)
    if not args.no_browser:
        with _quiet():
            opened = webbrowser.open(page)
        if not opened:
            print("no browser can be opened from here; open the address yourself", file=sys.stderr)
    return 0


def _found(args: argparse.Namespace) -> Running | None:
    ends = time.monotonic() + args.wait
    while True:
        try:
            running = find_running(args, None)
        except Refused:
            running = None
            if time.monotonic() >= ends:
                raise
        if running is not None or time.monotonic() >= ends:
            return running
        time.sleep(_PAUSE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what a browser writes to standard error nowhere: it is not for who asked for the page."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
