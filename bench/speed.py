#!/usr/bin/env python3
"""
What a request, an event and a stream cost: CPU of agm beside that of a compiled gateway that does the same work.

usage: python bench/speed.py unary|burst|paced|latency|first-byte|all [--rounds 5] [--secs 3]
           [--kind code-assist|api-key] [--tls] [--peers nginx,mitmproxy,litellm] [--check] [--json FILE]

unary       CPU a request
burst       CPU an event, 20 at once
paced       CPU an event, 50 of them 20 ms apart, 200 streams at a time
latency     milliseconds that one request at a time takes longer than at the upstream itself, p50 and p99
first-byte  as bench/first_byte.py

CPU is that of the gateway's process, as the kernel counts it, so that the load generator and a busy machine matter
little; the gateways are measured in turn, and a ratio is the median of the rounds' ratios.  agm runs as installed, with
the pool, the plugins, the request log and the metrics that are on by default.  Needs Debian's golang-go and wrk.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentTypeError, Namespace
from contextlib import ExitStack
from pathlib import Path

import attrs
import first_byte
from contest import KINDS, enter_all, fast_upstream, wrk
from figures import Figure, compare, finish, parser
from harness import STREAM, UNARY
from peers import named
from timing import asking, direct, percentile


@attrs.frozen
class Work:
    """A kind of work: what is asked for, by how many connections, what it is counted in, and the goal."""

    target: str
    connections: int
    unit: str
    goal: float
    #: Of a stream.
    events: int = 1
    gap: float = 0.0
    #: Seconds that a round takes at least.
    least: float = 0.0


WORK = {
    "unary": Work(UNARY, 32, "µs a request", 2.0),
    "burst": Work(STREAM, 32, "µs an event", 0.6, events=20),
    "paced": Work(STREAM, 200, "µs an event", 0.9, events=50, gap=0.02, least=6.0),
}
#: Requests of a round whose time is taken, and those before that warm up.
TIMED, WARMING = 400, 50
AGAINST = "compiled"


def cpu(mode: str, options: Namespace) -> list[Figure]:
    """CPU for each unit of work."""
    work = WORK[mode]
    rounds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        certificate = _certificate(stack, options)
        upstream = stack.enter_context(fast_upstream(events=work.events, gap=work.gap, certificate=certificate))
        contestants = enter_all(stack, upstream, options.kind, options.peers, certificate)
        for it in contestants:
            wrk(it.url, work.target, connections=work.connections, seconds=2)
        for _ in range(options.rounds):
            for it in contestants:
                before = it.cpu
                done = wrk(it.url, work.target, connections=work.connections, seconds=max(options.secs, work.least))
                rounds.setdefault(it.name, []).append((it.cpu - before) * 1e6 / (done * work.events))
    return [compare(_called(mode, options), work.unit, rounds, against=AGAINST, goal=_goal(work.goal, options))]


def latency(options: Namespace) -> list[Figure]:
    """Milliseconds that are added to a request."""
    added: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    with ExitStack() as stack:
        certificate = _certificate(stack, options)
        upstream = stack.enter_context(fast_upstream(certificate=certificate))
        contestants = enter_all(stack, upstream, options.kind, options.peers, certificate)
        itself = stack.enter_context(asking(upstream, certificate))
        connected = [(it.name, stack.enter_context(asking(it.url))) for it in contestants]
        for _ in range(options.rounds):
            for name, it in connected:
                for asked, target in ((itself, direct(UNARY, options.kind)), (it, UNARY)):
                    for _ in range(WARMING):
                        asked.ask(target)
                beside, through = [], []
                for _ in range(TIMED):  # in turn, so that what slows the machine down slows both
                    beside.append(itself.ask(direct(UNARY, options.kind)))
                    through.append(it.ask(UNARY))
                for at, fraction in (("p50", 0.5), ("p99", 0.99)):
                    found = percentile(through, fraction) - percentile(beside, fraction)
                    added[at].setdefault(name, []).append(max(found, 0.001))
    return [
        compare(_called(f"latency, {at}", options), "ms", rounds, against=AGAINST, goal=_goal(goal, options))
        for (at, rounds), goal in zip(added.items(), (2.0, 3.0), strict=True)
    ]


def _goal(goal: float, options: Namespace) -> float | None:
    """The goals are for wrapping and unwrapping, where both do the same; the rest is told without one."""
    return goal if options.kind == "code-assist" and not options.tls else None


def _called(mode: str, options: Namespace) -> str:
    return f"{mode}, {options.kind}" + (", TLS to the upstream" if options.tls else "")


def _certificate(stack: ExitStack, options: Namespace) -> Path | None:
    """Where the upstream puts its certificate, if it is to speak TLS."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory())) / "upstream.pem" if options.tls else None


def measure(mode: str, options: Namespace) -> list[Figure]:
    """The figures of a mode."""
    if mode == "latency":
        return latency(options)
    if mode == "first-byte":
        return first_byte.measure(first_byte.options([f"--rounds={options.rounds}", f"--kind={options.kind}"]))
    return cpu(mode, options)


MODES = (*WORK, "latency", "first-byte")


def _peers(text: str) -> list[str]:
    try:
        return named(text)
    except ValueError as e:
        raise ArgumentTypeError(str(e)) from None


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__, seconds=3.0)
    made.add_argument("mode", choices=[*MODES, "all"])
    made.add_argument("--kind", choices=KINDS, default=KINDS[0], help=f"of the account (default: {KINDS[0]})")
    made.add_argument("--tls", action="store_true", help="speak TLS to the upstream")
    made.add_argument(
        "--peers", type=_peers, default=[], help="other gateways in the same run: nginx,mitmproxy,litellm"
    )
    found = made.parse_args(arguments)
    if found.tls and found.peers:
        made.error("--peers are measured without --tls")
    return found


def main() -> int:
    """Measure, and print."""
    chosen = options()
    found: list[Figure] = []
    for mode in MODES if chosen.mode == "all" else [chosen.mode]:
        if chosen.tls and mode == "first-byte":
            continue  # no connection is made in it that TLS would make a difference to
        found += measure(mode, chosen)
    return finish(found, chosen)


if __name__ == "__main__":
    sys.exit(main())
