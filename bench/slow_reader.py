#!/usr/bin/env python3
"""
What a client that does not read costs: growth of the gateway's memory while a large answer waits for it.

usage: python bench/slow_reader.py [--mib 500] [--seconds 5] [--limit 8]

For each kind of account and each form of answer, a client that reads nothing, one that reads slowly and one that reads
as fast as it can ask for an answer of the emulator's.  Prints by how many MiB the gateway's resident memory was above
that of the same gateway after small requests; status 1 if it was more than the limit anywhere.  A unary answer of a
code-assist account is left out: it is unwrapped whole, and so is in memory whole.
"""

from __future__ import annotations

import argparse
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from harness import PROMPT, STREAM, UNARY, account, gateway, load, rss_kib

from testbed.processes import Twistd, environment, running

KINDS = ("api-key", "vertex", "code-assist")
FORMS = {
    "events": "/v1beta/models/emu-giant-{mib}:streamGenerateContent?alt=sse",
    "array": "/v1beta/models/emu-giant-{mib}:streamGenerateContent?alt=json",
    "unary": "/v1beta/models/emu-bigunary-{mib}:generateContent",
}
#: How a client reads: bytes at a time (0: nothing, ever), and seconds between.
READERS = {"nothing": (0, 0.05), "slowly": (16 * 1024, 0.02), "fast": (256 * 1024, 0.0)}


@contextmanager
def emulator() -> Iterator[str]:
    """The address of an emulator that is a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with running(path, "agm-emulator", "--port", "0", env=environment(path)) as twistd:
            twistd.until_logged("starting on ")
            port = re.search(r"starting on (\d+)", twistd.log)
            assert port is not None, "the line has just been seen"
            yield f"http://127.0.0.1:{port[1]}"


def peak(twistd: Twistd, target: str, reader: str, seconds: float) -> tuple[int, float]:
    """The gateway's largest resident memory in KiB while an answer is taken, and how many MiB were taken."""
    host, _, port = twistd.url().removeprefix("http://").partition(":")
    size, pause = READERS[reader]
    request = (
        f"POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(PROMPT)}\r\n\r\n"
    ).encode() + PROMPT
    most = 0
    taken = 0
    with socket.create_connection((host, int(port)), 30) as client:
        client.sendall(request)
        head = client.recv(64)
        assert head.startswith(b"HTTP/1.1 200 "), head
        ends = time.monotonic() + seconds
        sampled = 0.0
        while (now := time.monotonic()) < ends:
            if size:
                data = client.recv(size)
                if not data:
                    break
                taken += len(data)
            if pause:
                time.sleep(pause)
            if now - sampled > 0.05:
                most = max(most, rss_kib(twistd.process.pid))
                sampled = now
    return most, taken / 1024**2


@attrs.frozen
class Row:
    """What one combination cost: MiB that memory grew by, and MiB of the answer that were taken."""

    kind: str
    form: str
    reader: str
    grew: float
    taken: float


def measure(mib: int, seconds: float) -> Iterator[Row]:
    """Every combination, one after the other."""
    with ExitStack() as stack:
        url = stack.enter_context(emulator())
        for kind in KINDS:
            twistd = stack.enter_context(gateway(account(url, kind)))
            for target in (UNARY, STREAM):  # what the first requests bring into memory stays there
                load(twistd.url(), target, 16, 1)
            base = rss_kib(twistd.process.pid)
            for form, target in FORMS.items():
                if (kind, form) == ("code-assist", "unary"):
                    continue
                for reader in READERS:
                    most, taken = peak(twistd, target.format(mib=mib), reader, seconds)
                    yield Row(kind, form, reader, (most - base) / 1024, taken)


def main() -> int:
    """Measure every combination, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=500, help="size of an answer")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a client has its answer open")
    parser.add_argument("--limit", type=float, default=8.0, help="MiB that memory may grow by")
    options = parser.parse_args()
    worst = 0.0
    print(f"{'account':12} {'answer':8} {'client reads':13} {'grew, MiB':>10} {'taken, MiB':>11}")
    for row in measure(options.mib, options.seconds):
        worst = max(worst, row.grew)
        print(f"{row.kind:12} {row.form:8} {row.reader:13} {row.grew:10.1f} {row.taken:11.1f}", flush=True)
    print(f"at most {worst:.1f} MiB; the limit is {options.limit:g} MiB")
    return worst > options.limit


if __name__ == "__main__":
    raise SystemExit(main())
