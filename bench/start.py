#!/usr/bin/env python3
"""
From nothing to the first answer: how long a gateway takes to start, and what it spends that on.

usage: python bench/start.py [--rounds 5] [--imports] [--check] [--json FILE]

The clock runs from the start of ``twistd`` to the answer to a GET /healthz, asked again and again from the beginning;
beside it the CPU that the process has used by then, and how long ``twistd web`` takes, which is Twisted's own server.
Modules are compiled already, as they are where pip has installed them.  With --imports the packages whose modules take
the longest to import are listed.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from contest import configuration
from figures import Figure, compare, finish, parser
from harness import as_installed, cpu_seconds, environment
from peers import free_port

from testbed.processes import BIN, Twistd

PATIENCE = 60.0
#: Seconds between two attempts at an answer.
PAUSE = 0.002


def start(arguments: Sequence[str], target: str) -> tuple[float, float]:
    """Seconds from the start of a ``twistd`` to its first answer, and CPU seconds that it has used by then."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "agm.toml"
        written.write_text(configuration("http://127.0.0.1:9", "code-assist"), encoding="utf-8")
        written.chmod(0o600)
        filled = [it.format(port=port, folder=folder) for it in arguments]
        began = time.monotonic()
        twistd = Twistd.start(Path(folder) / "run", *filled, env=as_installed(environment(Path(folder))))
        try:
            while not _answers(port, target):
                if time.monotonic() - began > PATIENCE or twistd.process.poll() is not None:
                    raise SystemExit(f"bench: no answer\n{twistd.log[-2000:]}\n{twistd.errors}")
                time.sleep(PAUSE)
            return time.monotonic() - began, cpu_seconds(twistd.process.pid)
        finally:
            twistd.end()


def _answers(port: int, target: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as it:
            it.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return it.recv(100).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


AGM = ("agm", "--port", "{port}", "--config", "{folder}/agm.toml")
WEB = ("web", "--listen", "tcp:{port}:interface=127.0.0.1", "--path", "{folder}")


def measure(options: Namespace) -> list[Figure]:
    """Seconds of the clock, and of CPU."""
    clock: dict[str, list[float]] = {"agm": [], "twistd web": []}
    cpu: dict[str, list[float]] = {"agm": [], "twistd web": []}
    for number in range(options.rounds + 1):
        for name, arguments, target in (("agm", AGM, "/healthz"), ("twistd web", WEB, "/")):
            seconds, used = start(arguments, target)
            if number:  # the first one compiles
                clock[name].append(seconds)
                cpu[name].append(used)
    return [
        compare("cold start to first answer", "s", clock, against=None, goal=1.0),
        compare("CPU of a cold start", "s", cpu, against=None, goal=None),
    ]


def imports() -> str:
    """The packages that take the longest to import, in milliseconds, without what they import themselves."""
    program = "import twisted.scripts.twistd, twisted.internet.reactor, agm.tap"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [BIN / "python", "-X", "importtime", "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=as_installed(environment(Path(folder))),
        )
    times: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for micros, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", done.stderr):
        package = ".".join(name.split(".")[: 2 if name.startswith(("twisted.", "agm.", "google.")) else 1])
        times[package] += int(micros)
        modules[package] += 1
    lines = [f"{'package':32} {'ms':>7} {'modules':>8}"]
    lines += [f"{name:32} {micros / 1e3:7.1f} {modules[name]:8}" for name, micros in times.most_common(20)]
    return "\n".join([*lines, f"{'all':32} {times.total() / 1e3:7.1f} {modules.total():8}"])


def options(arguments: list[str] | None = None) -> Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--imports", action="store_true", help="list what takes the longest to import")
    return made.parse_args(arguments)


def main() -> int:
    """Measure, and print."""
    chosen = options()
    status = finish(measure(chosen), chosen)
    if chosen.imports:
        print(imports())
    return status


if __name__ == "__main__":
    sys.exit(main())
