#!/usr/bin/env python3
"""
What agm promises about reliability, each promise with what was tried, the figure, and whether it holds.

usage: python bench/promises.py [--short] [--rows NAME[,NAME…]]

Real processes on loopback: a gateway, the emulator or an upstream that misbehaves, and clients on plain sockets.  The
last rows run parts of the test suite and count.  Prints the table; status 1 if a promise does not hold.  The whole
takes about ten minutes, `--short` two; `--rows list` names the rows.
"""

from __future__ import annotations

import argparse
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import attrs
import soak
from harness import HERE, PROMPT, account, cpu_seconds, gateway, load, rss_kib
from slow_reader import FORMS, KINDS, READERS, emulator, peak
from standby import Standby, standby

from agm.app.rlimit import raise_limit
from testbed import storms  # found through harness, as the next ones
from testbed.answers import Seen
from testbed.processes import Twistd, environment, running, until
from testbed.sockets import Client

CALLS = {
    "unary": "/v1beta/models/{}:generateContent",
    "sse": "/v1beta/models/{}:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/{}:streamGenerateContent?alt=json",
}
#: Seconds that a timer may be late.
LATE = 1.0
MIB = 1024 * 1024


@attrs.frozen
class Row:
    """A promise, and what became of it."""

    promise: str
    tried: str
    figure: str
    holds: bool


#: A row's measurement; its argument is whether it has to be short.
Measurement = Callable[[bool], Row]


@contextmanager
def fronting(upstream: Standby, configuration: str = "") -> Iterator[Twistd]:
    """A gateway before a standby upstream."""
    with gateway(configuration + account(upstream.url)) as twistd:
        yield twistd


def percentile(figures: Sequence[float], part: float) -> float:
    """The smallest figure that so large a part of them does not exceed."""
    ordered = sorted(figures)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


# Memory and time that clients may take


def slow_readers(short: bool) -> Row:
    """Clients that read nothing, slowly, or as fast as they can."""
    mib, seconds = (64, 1.0) if short else (500, 4.0)
    readers = ("nothing",) if short else tuple(READERS)
    worst, tried = 0.0, 0
    with ExitStack() as stack:
        url = stack.enter_context(emulator())
        for kind in KINDS:
            twistd = stack.enter_context(gateway(account(url, kind)))
            for target in CALLS.values():
                load(twistd.url(), target.format("gemini-2.5-flash"), 32, 2)
            base = rss_kib(twistd.process.pid)
            for form, target in FORMS.items():
                if (kind, form) == ("code-assist", "unary"):  # it is unwrapped whole, and so in memory whole
                    continue
                for reader in readers:
                    most, _ = peak(twistd, target.format(mib=mib), reader, seconds)
                    worst = max(worst, (most - base) / 1024)
                    tried += 1
    return Row(
        "a slow reader costs bounded memory", f"{tried} answers of {mib} MiB", f"{worst:.1f} MiB at most", worst <= 8
    )


def slow_heads(short: bool) -> Row:
    """Connections that send a byte of a head at a time."""
    count, limit = (200, 1.5) if short else (1000, 5.0)
    with gateway(f"[timeouts]\nrequest_read = {limit}\n") as twistd:
        url = twistd.url()
        host, _, port = url.removeprefix("http://").partition(":")
        selector = selectors.DefaultSelector()
        began: dict[socket.socket, float] = {}
        lasted: list[float] = []
        answered = 0
        for _ in range(count):
            client = socket.create_connection((host, int(port)), 10)
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
            client.setblocking(False)
            began[client] = time.monotonic()
            selector.register(client, selectors.EVENT_READ)
        health: list[float] = []
        ends = time.monotonic() + limit + 10
        while began and time.monotonic() < ends:
            before = time.monotonic()
            assert soak.ask(url, "/healthz") == (200, b'{"status":"ok"}')
            health.append(time.monotonic() - before)
            for key, _ in selector.select(0.1):
                client = key.fileobj
                assert isinstance(client, socket.socket)
                try:
                    data = client.recv(4096)
                except ConnectionError:
                    data = b""
                if data:
                    answered += b" 408 " in data
                else:
                    selector.unregister(client)
                    lasted.append(time.monotonic() - began.pop(client))
                    client.close()
            for client in began:
                try:
                    client.send(b"x")
                except OSError:
                    continue
        for client in began:
            client.close()
    worst = max(lasted, default=0.0)
    return Row(
        "slow heads end by a deadline that bytes do not push away",
        f"{count} connections, a byte every 0.1 s, request_read = {limit:g} s",
        f"{len(lasted)} closed after {worst:.1f} s at most, {answered} with 408; health in {max(health) * 1000:.0f} ms",
        len(lasted) == answered == count and worst <= limit + LATE,
    )


def large_uploads(short: bool) -> Row:
    """Bodies beyond all limits, by their length and in chunks."""
    with gateway(f"[gateway]\nmax_body = {8 * MIB}\n") as twistd:
        url, pid = twistd.url(), twistd.process.pid
        soak.ask(url, "/healthz")
        base, cpu = rss_kib(pid), cpu_seconds(pid)
        most, slowest, statuses = base, 0.0, []
        for framing in ("Content-Length: 2147483648", "Transfer-Encoding: chunked"):
            for expects in ("", "Expect: 100-continue\r\n"):
                client = Client(url)
                before = time.monotonic()
                head = f"POST {CALLS['unary'].format('m')} HTTP/1.1\r\nHost: 127.0.0.1\r\n{expects}{framing}\r\n\r\n"
                client.send(head.encode())
                piece = b"100000\r\n" + b"x" * MIB + b"\r\n"
                while client.look() and not client.received.startswith(b"HTTP/1.1 4"):
                    client.send(piece)  # a MiB at a time; 2 GiB, if nobody stops it
                    most = max(most, rss_kib(pid))
                slowest = max(slowest, time.monotonic() - before)
                for _ in range(16):  # and on, after the refusal
                    client.send(piece)
                most = max(most, rss_kib(pid))
                seen = client.finish()
                client.close()
                statuses.append(seen.status if seen is not None else 0)
        grown, used = (most - base) / 1024, cpu_seconds(pid) - cpu
    return Row(
        "a body beyond max_body is refused early, and not kept",
        "4 uploads of 2 GiB, by length and in chunks, max_body = 8 MiB",
        f"{statuses}, after {slowest * 1000:.0f} ms at most; {grown:+.1f} MiB; {used * 1000:.0f} ms of CPU",
        statuses == [413] * 4 and slowest <= 1 and grown <= 24 and used <= 2,
    )


def refusals_seen(short: bool) -> Row:
    """Clients that send all of their body before they read."""
    tries, seen = 30, 0
    with gateway(f"[gateway]\nmax_body = {MIB}\n") as twistd:
        for _ in range(tries):
            client = Client(twistd.url())
            client.post(CALLS["unary"].format("m"), b"x" * (20 * MIB))
            answer = client.finish()
            client.close()
            seen += answer is not None and answer.status == 413 and answer.complete
    return Row(
        "a client sees why it was refused",
        f"{tries} uploads of 20 MiB, sent whole",
        f"{seen} of {tries} saw 413",
        seen == tries,
    )


def idle_streams(short: bool) -> Row:
    """Streams on which nothing happens, and a call beside them."""
    count, calls = (300, 100) if short else (2000, 500)
    with standby() as upstream, fronting(upstream) as twistd:
        url, pid = twistd.url(), twistd.process.pid
        load(url, CALLS["unary"].format("quick"), 200, 8)
        load_alone = latencies(url, calls)
        base = rss_kib(pid)
        clients = []
        for _ in range(count):
            client = Client(url)
            client.post(CALLS["sse"].format("hold"))
            client.until(b"one")
            clients.append(client)
        each = (rss_kib(pid) - base) / count
        beside = latencies(url, calls)
        for client in clients:
            client.close()
        until(lambda: not upstream.under_way("hold"), "closed upstream connections")
    slow = percentile(beside, 0.99) * 1000
    return Row(
        "idle streams are cheap, and slow nobody down",
        f"{count} streams, {calls} calls beside them",
        f"{each:.1f} KiB a stream; a call's p50 {percentile(beside, 0.5) * 1000:.1f} ms, p99 {slow:.1f} ms "
        f"(alone {percentile(load_alone, 0.99) * 1000:.1f} ms)",
        each <= 25 and slow <= (100 if short else 15),
    )


def latencies(url: str, count: int) -> list[float]:
    """Seconds that each of so many calls took, one after the other."""
    client = Client(url)
    found = []
    for _ in range(count):
        client.received = b""
        before = time.perf_counter()
        client.post(CALLS["unary"].format("quick"))
        seen = client.finish()
        found.append(time.perf_counter() - before)
        assert seen is not None
        assert seen.status == 200
    client.close()
    return found


# Ends


def cancellation(short: bool) -> Row:
    """Clients that leave, in four states, and when the upstream's connection closes."""
    rounds = 1 if short else 5
    waited: list[float] = []
    with standby() as upstream, fronting(upstream) as twistd:
        states = (("before", "silent"), ("silent", "hold"), ("streaming", "flood"), ("paused", "flood"))
        behind = (b"", b"x" * 100_000)
        cases = list(product(range(rounds), states, CALLS.values(), ("1.0", "1.1"), behind, (True, False)))
        for _, (state, model), target, version, ahead, fin in cases:
            closed = left(upstream, twistd.url(), state, model, target.format(model), version, ahead, fin=fin)
            if closed is not None:
                waited.append(closed)
    worst = max(waited, default=0.0)
    return Row(
        "the upstream's connection closes within a second of the client's",
        f"{len(cases)} clients: before headers, silent, streaming, paused; FIN and reset; 100 KB behind",
        f"{len(waited)} of {len(cases)} closed, after {worst * 1000:.0f} ms at most",
        len(waited) == len(cases) and worst <= 1,
    )


def left(
    upstream: Standby, url: str, state: str, model: str, target: str, version: str, ahead: bytes, *, fin: bool
) -> float | None:
    """Seconds from a client's leave to the end of its upstream connection; None if that did not come."""
    client = Client(url)
    client.post(target, PROMPT, version=version)
    client.send(ahead)
    until(lambda: upstream.under_way(model), "the request")
    (connection,) = upstream.under_way(model)
    if state in ("silent", "streaming"):
        client.until(b'"candidates": ')
    if state == "streaming":
        while len(client.received) < 500_000:
            assert client.read(), "a stream"
    elif state == "paused":
        time.sleep(0.1)
    gone = time.monotonic()
    if fin:
        client.close()
    else:
        client.reset()
    while connection.lost is None:
        if time.monotonic() > gone + 5:
            return None
        time.sleep(0.001)
    return connection.lost - gone


#: Ways in which the emulator breaks an answer off; the last two are none for a unary one.
BREAKS = ("cut", "drop-1", "drop-3", "rst-1", "rst-3", "midstream", "errtail-1", "errdata-2")


def truncation(short: bool) -> Row:
    """Answers that break off, and what their clients can tell."""
    tried, visible = 0, 0
    with ExitStack() as stack:
        url = stack.enter_context(emulator())
        for kind in KINDS:
            twistd = stack.enter_context(gateway(account(url, kind)))
            for fault in BREAKS[: 3 if short else None]:
                for framing, target in CALLS.items():
                    if framing == "unary" and fault in BREAKS[-2:]:
                        continue
                    for version in ("1.0", "1.1"):
                        load(twistd.url(), CALLS["unary"].format("gemini-2.5-flash"), 1, 1)  # the endpoint is well
                        tried += 1
                        visible += breaks_visibly(twistd.url(), target.format(f"emu-{fault}"), framing, version)
    return Row(
        "an answer that broke off never looks complete",
        f"{tried} answers: {len(KINDS)} kinds, {len(CALLS)} framings, HTTP/1.0 and 1.1",
        f"{visible} of {tried} visible",
        visible == tried,
    )


def breaks_visibly(url: str, target: str, framing: str, version: str) -> bool:
    """Whether a client can tell that its answer broke off."""
    client = Client(url)
    client.post(target, PROMPT, "Connection: close", version=version)
    client.drain()
    client.close()
    seen = client.seen
    if seen is None:
        return client.broken
    if seen.status != 200:
        return seen.complete and b'"error"' in seen.body
    if framing == "sse" and not says_error(seen):
        return False
    return not seen.complete


def says_error(seen: Seen) -> bool:
    """Whether the last event of a stream is an error."""
    return bool(seen.events) and "error" in seen.events[-1]


def retries(short: bool) -> Row:
    """A storm, and how often each request was sent."""
    plan = storms.Plan(accounts=6, requests=200, clients=12) if short else storms.Plan()
    with tempfile.TemporaryDirectory() as folder:
        report = storms.run(plan, Path(folder))
    sent = sum(call.number is not None for call in report.calls)
    served = sum(outcome.how == "served" for outcome in report.outcomes)
    return Row(
        "retries are counted: nothing is sent again that may have been acted on",
        f"a storm of {len(report.outcomes)} requests over {plan.accounts} failing accounts",
        f"{served} served with {sent} upstream requests; {len(report.violations)} rules broken",
        not report.violations,
    )


def stale(short: bool) -> Row:
    """An upstream that closes each connection just as it is used again."""
    tries = 50 if short else 200
    with standby() as upstream, fronting(upstream) as twistd:
        client = Client(twistd.url())
        served = 0
        for _ in range(tries):
            client.received = b""
            client.post(CALLS["unary"].format("stale"))
            seen = client.finish()
            served += seen is not None and seen.status == 200 and seen.complete
        client.close()
        answers = sum(min(len(it.asked), 1) for it in upstream.connections)
    return Row(
        "a kept connection that closes as it is used costs no request and doubles none",
        f"{tries} calls, each on a connection that closes",
        f"{served} of {tries} served, {answers} answers",
        served == answers == tries,
    )


def draining(short: bool) -> Row:
    """SIGTERM with streams under way; and a second one."""
    streams = 20
    finished, cut, statuses = 0, 0, []
    for signals in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            with running(path, "agm", "--demo", "--port", "0", env=environment(path)) as twistd:
                clients = []
                for _ in range(streams):
                    client = Client(twistd.url())
                    client.post(CALLS["sse"].format("emu-slow"))
                    client.until(b"candidates")
                    clients.append(client)
                for _ in range(signals):
                    twistd.signal()
                    twistd.until_logged("SIGTERM")
                for client in clients:
                    client.drain()
                    client.close()
                    seen = client.seen
                    assert seen is not None
                    finished += seen.complete and b'"STOP"' in seen.body
                    cut += not seen.complete and says_error(seen)
                statuses.append(twistd.wait())
    return Row(
        "a stop lets answers end; a second signal cuts them visibly",
        f"twice {streams} streams",
        f"{finished} finished, {cut} cut visibly, exit status {statuses}",
        finished == cut == streams and statuses == [0, 0],
    )


# What is left


def leaks(short: bool) -> Row:
    """A soak."""
    exchanges, limit = (1000, 8.0) if short else (20_000, 2.0)
    report = soak.run(exchanges)
    left = sum(report.left.values())
    return Row(
        "nothing is left of exchanges",
        f"{exchanges} exchanges, whole, cut, refused or left",
        f"{report.grown / 1024:+.1f} MiB (limit {limit:g}), {report.descriptors:+d} descriptors, "
        f"{left} objects or timers, {len(report.errors)} errors logged, {len(report.wrong)} wrong answers",
        report.holds(limit),
    )


# Parts of the test suite


def counted(promise: str, tried: str, *arguments: str) -> Row:
    """A row that is a run of tests."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", *arguments],
        cwd=HERE.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    counts = {
        what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", done.stdout[-300:])
    }
    passed, skipped = counts.get("passed", 0), counts.get("skipped", 0)
    bad = sum(number for what, number in counts.items() if what not in ("passed", "skipped"))
    if done.returncode:
        print(done.stdout[-4000:])
    figure = f"{passed} of {passed + bad} tests pass" + (f", {skipped} skipped" if skipped else "")
    return Row(promise, tried, figure, done.returncode == 0)


def faults(short: bool) -> Row:
    return counted(
        "every fault of an upstream ends well",
        "the table of tests/faults" + (", one kind and framing" if short else " × 9 kinds and framings"),
        "tests/faults/test_upstream_faults.py",
        "tests/faults/test_early_answers.py",
        *(["-k", "api-key-sse"] if short else []),
    )


def leavers(short: bool) -> Row:
    return counted(
        "a client that leaves is noticed in every state",
        "five states × framings × HTTP versions × FIN, reset × 100 KB behind",
        "tests/faults/test_clients_leave.py",
        *(["-k", "api-key-sse"] if short else []),
    )


def timers(short: bool) -> Row:
    return counted(
        "each of the six timers ends what it is for",
        "connect, first_byte, idle, total, request_read, client_stall",
        "tests/faults/test_timers.py",
        *(["-k", "api-key-sse or request_read"] if short else []),
    )


def starvation(short: bool) -> Row:
    return counted(
        "few descriptors: 503 and health, no traceback, recovery",
        "300 clients, 96 and 160 descriptors",
        "tests/faults/test_descriptors.py",
    )


def slowhttptest(short: bool) -> Row:
    return counted(
        "slowhttptest: available, and connections are closed",
        "slow heads, slow bodies, slow readers, 200 connections each",
        "tests/faults/test_slowhttptest.py",
        *(["-k", "bodies"] if short else []),
    )


def hostile(short: bool) -> Row:
    rows = sum(
        1
        for line in (HERE.parent / "tests" / "web" / "hostile.txt").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    )
    return counted(
        "hostile requests are refused, and nothing of them forwarded", f"{rows} requests", "tests/web/test_hostile.py"
    )


def mutants(short: bool) -> Row:
    runs = 5_000 if short else 100_000
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--runs", str(runs), "requests-and-h11", "answers-and-h11"],
        cwd=HERE.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    unexplained = [int(found) for found in re.findall(r"(\d+) unexplained", done.stdout)]
    return Row(
        "the gateway and h11 read alike, but where it is stricter",
        f"{runs} mutants of requests, and of answers",
        f"{sum(unexplained)} unexplained differences",
        done.returncode == 0 and unexplained == [0, 0],
    )


def secrets(short: bool) -> Row:
    return counted(
        "no secret gets out",
        "canaries in headers, query, bodies and upstream errors",
        "tests/app/test_secrets.py",
    )


def tls(short: bool) -> Row:
    return counted(
        "TLS is verified, always", "wrong name, expired, self-signed, unknown authority", "tests/upstream/test_tls.py"
    )


ROWS: dict[str, Measurement] = {
    "readers": slow_readers,
    "heads": slow_heads,
    "uploads": large_uploads,
    "refusals": refusals_seen,
    "streams": idle_streams,
    "cancellation": cancellation,
    "truncation": truncation,
    "retries": retries,
    "stale": stale,
    "drain": draining,
    "leaks": leaks,
    "faults": faults,
    "leavers": leavers,
    "timers": timers,
    "descriptors": starvation,
    "slowhttptest": slowhttptest,
    "hostile": hostile,
    "mutants": mutants,
    "secrets": secrets,
    "tls": tls,
}


def main() -> int:
    """Measure, and print the table row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="less of everything")
    parser.add_argument("--rows", default=",".join(ROWS), help="these rows alone, by their names; list prints them")
    options = parser.parse_args()
    if options.rows == "list":
        print("\n".join(ROWS))
        return 0
    names = options.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    raise_limit()
    print("| promise | tried | figure | holds |\n|---|---|---|---|", flush=True)
    held = True
    for name in names:
        row = ROWS[name](options.short)
        print(f"| {row.promise} | {row.tried} | {row.figure} | {'yes' if row.holds else '**no**'} |", flush=True)
        held = held and row.holds
    return not held


if __name__ == "__main__":
    raise SystemExit(main())
