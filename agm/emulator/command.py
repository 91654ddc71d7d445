"""
``agm-emulator``: the emulator as a program of its own, for CI and for whoever never runs the gateway.

It says where it listens, in one line on standard output, as soon as it does, and nothing more; SIGTERM and SIGINT end
it with status 0.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Any

from agm import __version__
from agm.emulator.scenarios import SCENARIOS

__all__ = ["main"]

_EPILOG = """\
examples:
  agm-emulator
  agm-emulator --port 0 --scenario rate-limited
  agm-emulator --host 0.0.0.0

scenarios:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; 0, or 1 with the reason why it cannot listen."""
    parser = argparse.ArgumentParser(
        prog="agm-emulator",
        description="Stand in for Google's Gemini upstreams: no credentials, no network, the same bytes each time.",
        epilog=_EPILOG + "".join(f"  {name:<16}{each.meaning}\n" for name, each in SCENARIOS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=_port, default=8046, help="the port; 0 takes a free one; default: 8046")
    parser.add_argument("--seed", type=int, default=0, help="other details in the answers; default: 0")
    parser.add_argument("--scenario", choices=SCENARIOS, metavar="NAME", help="faults from the start on, see below")
    parser.add_argument("--version", action="version", version=f"agm-emulator {__version__}")
    args = parser.parse_args(argv)
    return _serve(args)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to 65535")
    return int(text)


def _serve(args: argparse.Namespace) -> int:
    from twisted.internet import reactor as _reactor
    from twisted.internet.error import CannotListenError

    from agm.emulator.site import make_site
    from agm.net.clocks import use_steady_clock

    reactor: Any = _reactor
    use_steady_clock(reactor)
    site = make_site(reactor, seed=args.seed)
    site.state.follow(args.scenario)
    try:
        port = reactor.listenTCP(args.port, site, interface=args.host, backlog=1024)
    except CannotListenError as e:
        why = getattr(e.socketError, "strerror", None) or e.socketError
        print(f"agm-emulator: cannot listen on {args.host} port {args.port}: {why}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: reactor.callFromThread(reactor.stop))
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"listening on http://{host}:{port.getHost().port}", flush=True)
    reactor.run(installSignalHandlers=False)
    return 0
